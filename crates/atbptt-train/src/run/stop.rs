//! Signals that end a run, where the program asked for them; without the feature `signals`, none.

use burn::train::Interrupter;

use crate::TrainError;
#[cfg(feature = "signals")]
use crate::signals::StopSignals;

#[derive(Clone)]
pub(super) struct Stop {
    #[cfg(feature = "signals")]
    signals: Option<StopSignals>,
}

#[cfg(feature = "signals")]
impl Stop {
    pub(super) fn listen(wanted: bool, interrupter: &Interrupter) -> Result<Self, TrainError> {
        let listen = || StopSignals::listen(interrupter);
        let signals = wanted.then(listen).transpose();
        let signals = signals.map_err(|error| TrainError::Training {
            reason: format!("signals cannot be listened for: {error}"),
        })?;
        Ok(Self { signals })
    }

    pub(super) fn accept_ctrl_c(&self) {
        if let Some(signals) = &self.signals {
            signals.accept_ctrl_c();
        }
    }

    pub(super) fn restore_terminal(&self) {
        if let Some(signals) = &self.signals {
            signals.restore_terminal();
        }
    }

    pub(super) fn exit_status(&self) -> Option<u8> {
        self.signals.as_ref()?.exit_status()
    }
}

#[cfg(not(feature = "signals"))]
impl Stop {
    pub(super) fn listen(_: bool, _: &Interrupter) -> Result<Self, TrainError> {
        Ok(Self {})
    }
    pub(super) fn accept_ctrl_c(&self) {}
    pub(super) fn restore_terminal(&self) {}
    pub(super) fn exit_status(&self) -> Option<u8> {
        None
    }
}
