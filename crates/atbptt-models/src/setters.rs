//! The `with_…` methods of configurations: one line each, with its documentation.

/// Methods that take a configuration and give it back with one field changed.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($field:ident: $kind:ty);)+) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self, $field: $kind) -> Self {
                self.$field = $field.into();
                self
            }
        )+
    };
}

pub(crate) use setters;
