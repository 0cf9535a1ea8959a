//! Panics of Burn's that become errors.
//!
//! Its client for remote devices panics where a local device could not fail. Whoever catches such a panic has an error to tell;
//! the panic's own lines would come before it and say nothing to a user.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Mutex;
#[cfg(feature = "remote")]
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// From now on, panics on this thread go to the log instead of the terminal, if [`install`] has been called.
pub(crate) fn keep_quiet() {
    QUIET.set(true);
}

/// Runs `work`; a panic in it becomes its message.
#[cfg(any(feature = "remote", test))]
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let was = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(was);
    result.map_err(|cause| message(cause.as_ref()))
}

/// What a panic says.
pub(crate) fn message(cause: &(dyn Any + Send)) -> String {
    cause
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| cause.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "no reason given".into())
}

/// Runs `f`; a panic in it becomes its message, and prints nothing.
#[cfg_attr(
    not(any(feature = "cuda", feature = "rocm", feature = "wgpu", test)),
    allow(dead_code)
)]
pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    // The hook is one per process: two callers at once would put back each other's.
    static HOOK: Mutex<()> = Mutex::new(());
    let _turn = HOOK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let result = catch_unwind(AssertUnwindSafe(f));
    set_hook(hook);
    result.map_err(|cause| message(cause.as_ref()))
}

/// Sends the panics of quiet threads to the log, for the rest of the process; those of other threads go where they went.
#[cfg(feature = "remote")]
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| match QUIET.get() {
            true => log::error!("{panic}"),
            false => before(panic),
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(
            caught(|| -> u8 { panic!("no {}", "server") }),
            Err("no server".into())
        );
        assert!(!QUIET.get());
    }

    #[test]
    fn a_panic_while_opening_becomes_its_message() {
        assert_eq!(quietly(|| 3), Ok(3));
        assert_eq!(
            quietly(|| -> u8 { panic!("no {}", "driver") }),
            Err("no driver".into())
        );
    }
}
