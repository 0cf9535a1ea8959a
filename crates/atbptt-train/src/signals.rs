//! SIGINT, SIGTERM and SIGHUP (a closed terminal) end a run cleanly.
//!
//! The first one asks Burn's `Interrupter` to stop: the strategy finishes the window, writes a checkpoint and returns. A second
//! one ends the process at once. Either way the terminal is as it was, also if Burn's dashboard had it.
//!
//! A closed terminal is different in three ways. The kernel and the shell may both report it, so a second SIGHUP is ignored.
//! Writing to the terminal fails from then on and would make `println!` panic, so standard output and error are redirected to
//! nowhere. And a program that `nohup` started ignores SIGHUP; it goes on ignoring it.

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
///         Some(status) => ExitCode::from(status), // 130, 143 or 129; the run can be resumed
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
    /// The operating system's error, when it refuses a handler.
    pub fn listen(interrupter: &Interrupter) -> io::Result<Self> {
        let signals = Self {
            received: Arc::new(AtomicI32::new(0)),
            terminal: Terminal::look(),
        };
        let (seen, interrupter) = (signals.clone(), interrupter.clone());
        watch(move |signal| {
            let second = seen.received.swap(signal, Ordering::SeqCst) != 0;
            if is_hang_up(signal) {
                seen.terminal.leave();
            } else if second {
                seen.terminal.restore();
                leave(128 + signal);
            }
            interrupter.stop(Some("a signal asked the run to end"));
            if !seen.terminal.is_taken() {
                // After a hang-up there may be nobody to read it, and then `eprintln!` would panic.
                let _ = io::Write::write_all(
                    &mut io::stderr(),
                    b"\nstopping after this step; once more to stop at once\n",
                );
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
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(act))?;
    Ok(())
}

/// Whether the program was started with `signal` ignored, as `nohup` does with SIGHUP.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    use nix::libc::{SIG_IGN, sigaction};
    let mut now = std::mem::MaybeUninit::<sigaction>::zeroed();
    // SAFETY: without a new action, the call only fills in the one there is.
    let asked = unsafe { sigaction(signal, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: all zeros are a value of the structure, and the call may have filled in another.
    asked == 0 && unsafe { now.assume_init() }.sa_sigaction == SIG_IGN
}

#[cfg(unix)]
fn is_hang_up(signal: i32) -> bool {
    signal == signal_hook::consts::SIGHUP
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
fn is_hang_up(_: i32) -> bool {
    false
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
    /// Whether standard output and standard error are one.
    shown_on: [bool; 2],
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
        use io::IsTerminal;
        let before = nix::sys::termios::tcgetattr(io::stdin());
        Self {
            before: before.ok().map(Into::into),
            shown_on: [io::stdout().is_terminal(), io::stderr().is_terminal()],
        }
    }

    /// Redirects to nowhere what went to the terminal, which is gone. Files and pipes still work.
    fn leave(&self) {
        let Ok(nowhere) = std::fs::File::options().write(true).open("/dev/null") else {
            return;
        };
        let [out, error] = self.shown_on;
        // Best effort: there is nobody left to tell of an error.
        if out {
            let _ = nix::unistd::dup2_stdout(&nowhere);
        }
        if error {
            let _ = nix::unistd::dup2_stderr(&nowhere);
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

/// On other systems the dashboard restores what it changed.
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
    fn leave(&self) {}
    fn accept_ctrl_c(&self) {}
}
