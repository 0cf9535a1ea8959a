//! SIGINT and SIGTERM end a run in good order.
//!
//! The first one asks Burn's `Interrupter` to stop: the strategy finishes the window, writes a checkpoint and returns. A second
//! one ends the process at once. Either way the terminal is as it was, also if Burn's dashboard had it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use burn::train::Interrupter;

/// Listens for signals that ask a program to end.
///
/// ```no_run
/// use std::process::ExitCode;
/// use atbptt_train::StopSignals;
/// use burn::train::Interrupter;
///
/// fn main() -> ExitCode {
///     let interrupter = Interrupter::new();
///     let Ok(signals) = StopSignals::listen(&interrupter) else {
///         return ExitCode::FAILURE;
///     };
///     // … `SupervisedTraining::with_interrupter(interrupter)`, a strategy with checkpoints, launch …
///     match signals.exit_status() {
///         Some(status) => ExitCode::from(status), // 130 or 143; the run can be resumed
///         None => ExitCode::SUCCESS,
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct StopSignals {
    received: Arc<AtomicI32>,
    terminal: Terminal,
}

impl StopSignals {
    /// Begins to listen; from now on a first signal does not end the process by itself. Call it once, before the dashboard
    /// takes the terminal.
    ///
    /// # Errors
    ///
    /// The operating system's, when it refuses a handler.
    pub fn listen(interrupter: &Interrupter) -> io::Result<Self> {
        let signals = Self {
            received: Arc::new(AtomicI32::new(0)),
            terminal: Terminal::look(),
        };
        let (seen, interrupter) = (signals.clone(), interrupter.clone());
        watch(move |signal| {
            if seen.received.swap(signal, Ordering::SeqCst) != 0 {
                seen.terminal.restore();
                leave(128 + signal);
            }
            interrupter.stop(Some("a signal asked the run to end"));
            if !seen.terminal.is_taken() {
                eprintln!("\nstopping after this step; once more to stop at once");
            }
        })?;
        Ok(signals)
    }

    /// The last signal that arrived, by its number.
    pub fn received(&self) -> Option<i32> {
        Some(self.received.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
    }

    /// The conventional exit status, 128 + the signal's number, if one arrived.
    pub fn exit_status(&self) -> Option<u8> {
        self.received()
            .map(|signal| u8::try_from(128 + signal).unwrap_or(u8::MAX))
    }

    /// Lets Ctrl-C send SIGINT although the dashboard reads single keys. Call it once the dashboard is there, for example at
    /// the first window.
    pub fn accept_ctrl_c(&self) {
        self.terminal.accept_ctrl_c();
    }

    /// Gives the terminal back as it was before the dashboard, if it still has it.
    pub fn restore_terminal(&self) {
        self.terminal.restore();
    }
}

#[cfg(unix)]
fn watch(act: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(act))?;
    Ok(())
}

#[cfg(unix)]
fn leave(status: i32) -> ! {
    // No destructors: another thread may hold whatever they wait for.
    signal_hook::low_level::exit(status)
}

#[cfg(not(unix))]
fn watch(act: impl Fn(i32) + Send + 'static) -> io::Result<()> {
    const SIGINT: i32 = 2;
    ctrlc::set_handler(move || act(SIGINT)).map_err(io::Error::other)
}

#[cfg(not(unix))]
fn leave(status: i32) -> ! {
    std::process::exit(status)
}

/// How the terminal was set up.
#[cfg(unix)]
#[derive(Clone)]
struct Terminal {
    /// `None` without a terminal.
    before: Option<nix::libc::termios>,
}

#[cfg(unix)]
impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Terminal {{ found: {} }}", self.before.is_some())
    }
}

#[cfg(unix)]
impl Terminal {
    fn look() -> Self {
        let before = nix::sys::termios::tcgetattr(io::stdin());
        Self {
            before: before.ok().map(Into::into),
        }
    }

    /// Whether a dashboard has it: it then reads single keys.
    fn is_taken(&self) -> bool {
        let lines = |set: &nix::libc::termios| set.c_lflag & nix::libc::ICANON != 0;
        let now = Self::look().before;
        self.before.as_ref().is_some_and(lines) && now.is_some_and(|now| !lines(&now))
    }

    fn restore(&self) {
        use io::{IsTerminal, Write};
        use nix::sys::termios::{SetArg, tcsetattr};
        let Some(before) = self.before else { return };
        if !self.is_taken() {
            return;
        }
        // On the way out: there is nobody left to tell of an error.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &before.into());
        let mut out = io::stdout();
        if out.is_terminal() {
            // Mouse reports off, main screen, cursor on.
            let _ = out.write_all(
                b"\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h",
            );
            let _ = out.flush();
        }
    }

    fn accept_ctrl_c(&self) {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let Ok(mut now) = tcgetattr(io::stdin()) else {
            return;
        };
        now.local_flags.insert(LocalFlags::ISIG);
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &now);
    }
}

/// Elsewhere the dashboard restores what it took.
#[cfg(not(unix))]
#[derive(Clone, Debug)]
struct Terminal;

#[cfg(not(unix))]
impl Terminal {
    fn look() -> Self {
        Self
    }
    fn is_taken(&self) -> bool {
        false
    }
    fn restore(&self) {}
    fn accept_ctrl_c(&self) {}
}
