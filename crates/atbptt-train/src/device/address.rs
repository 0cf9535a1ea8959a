//! Addresses of servers that offer devices, as `--devices` and `BURN_DEVICE` name them.

use std::fmt;

use super::DeviceError;

/// `ws://host:port`, or `ws://host:port/1` for another of the server's devices than the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// A name or a number; with brackets, where it is one of IPv6.
    pub(super) host: String,
    pub(super) port: u16,
    /// Which of the server's devices, from zero.
    pub(super) device: usize,
}

impl Address {
    /// Whether `name` is meant as an address, and not as a backend's name.
    pub(super) fn is_meant(name: &str) -> bool {
        name.contains("//")
    }

    /// # Errors
    ///
    /// [`DeviceError::Address`].
    pub(super) fn parse(name: &str) -> Result<Self, DeviceError> {
        let wrong = |rule| DeviceError::Address {
            name: name.into(),
            rule,
        };
        let (scheme, rest) = name
            .trim()
            .split_once("://")
            .ok_or(wrong("it must begin with `ws://`"))?;
        match scheme.to_lowercase().as_str() {
            "ws" => {}
            "wss" => return Err(wrong("Burn's servers speak `ws://`, without encryption")),
            _ => return Err(wrong("it must begin with `ws://`")),
        }
        let (place, device) = rest.split_once('/').unwrap_or((rest, ""));
        let device = match device {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| wrong("what follows the port must be a device's number from zero"))?,
        };
        let (host, port) = place
            .rsplit_once(':')
            .filter(|(host, _)| !host.ends_with(':'))
            .ok_or(wrong("it has no port"))?;
        let port = port.parse().ok().filter(|&port| port != 0);
        let port = port.ok_or(wrong("its port must be a number from 1 to 65535"))?;
        let plain = |c: char| c.is_alphanumeric() || "-._[]:%".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(wrong("its host must be a name or a number"));
        }
        Ok(Self {
            host: host.into(),
            port,
            device,
        })
    }

    /// The server's, without the device.
    pub(super) fn url(&self) -> String {
        format!("ws://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url())?;
        match self.device {
            0 => Ok(()),
            device => write!(f, "/{device}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_a_port_and_perhaps_a_devices_number() {
        for (name, host, port, device) in [
            ("ws://127.0.0.1:3000", "127.0.0.1", 3000, 0),
            ("WS://gpu-3.lab:9/", "gpu-3.lab", 9, 0),
            (" ws://gpu:65535/12", "gpu", 65535, 12),
            ("ws://[::1]:80/1", "[::1]", 80, 1),
        ] {
            assert!(Address::is_meant(name));
            let expected = Address {
                host: host.into(),
                port,
                device,
            };
            assert_eq!(Address::parse(name).unwrap(), expected, "{name}");
        }
        assert_eq!(
            Address::parse("ws://a:1/2").unwrap().to_string(),
            "ws://a:1/2"
        );
        assert_eq!(Address::parse("ws://a:1/").unwrap().to_string(), "ws://a:1");
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_what_is_wrong_with_it() {
        for (name, part) in [
            ("http://gpu:3000", "begin with `ws://`"),
            ("//gpu:3000", "begin with `ws://`"),
            ("wss://gpu:3000", "without encryption"),
            ("ws://gpu", "no port"),
            ("ws://[::1]", "no port"),
            ("ws://gpu:", "port must be"),
            ("ws://gpu:0", "port must be"),
            ("ws://gpu:70000", "port must be"),
            ("ws://:3000", "host must be"),
            ("ws://me@gpu:3000", "host must be"),
            ("ws://gpu:3000/first", "number from zero"),
            ("ws://gpu:3000/-1", "number from zero"),
        ] {
            let text = Address::parse(name).unwrap_err().to_string();
            assert!(text.contains(part) && text.contains(name), "{name}: {text}");
            assert!(text.contains("ws://HOST:PORT"), "{text}");
        }
    }
}
