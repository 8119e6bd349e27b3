//! The closed set of error reasons and the gRPC code that each one travels with: the contract's table.
//!
//! Server and client share it, so that neither can know a reason that the other does not.

use tonic::Code;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal $code:ident;)*) => {
        /// Why a call failed: `reason` of the `google.rpc.ErrorInfo` in the status details.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the contract's order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The gRPC code that goes with it.
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// The reason of this name, if there is one.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// The request is malformed.
    Inval "EINVAL" InvalidArgument;
    /// No such file.
    NoEnt "ENOENT" NotFound;
    /// No such mapping, or it belongs to another process.
    BadF "EBADF" NotFound;
    /// No such process.
    Srch "ESRCH" NotFound;
    /// Create-only, and the file is there.
    Exist "EEXIST" AlreadyExists;
    /// A capability or a token's path scope is missing.
    Acces "EACCES" PermissionDenied;
    /// The mapping's protection forbids the access.
    SegvAccErr "SEGV_ACCERR" PermissionDenied;
    /// The range is not wholly inside the mapping.
    SegvMapErr "SEGV_MAPERR" OutOfRange;
    /// The range reaches pages wholly beyond the end of the file.
    SigBus "SIGBUS" OutOfRange;
    /// The mount is read-only.
    RoFs "EROFS" FailedPrecondition;
    /// The operation needs something still in use.
    Busy "EBUSY" FailedPrecondition;
    /// A memory, mapping or process limit.
    NoMem "ENOMEM" ResourceExhausted;
    /// Unsynced bytes at their limit, and they could not be written back in time.
    DQuot "EDQUOT" ResourceExhausted;
    /// The object changed in the store under unsynced writes; nothing was overwritten.
    Stale "ESTALE" Aborted;
    /// The store failed after its retries.
    Io "EIO" Unavailable;
    /// Bytes read do not match their checksum or length.
    UClean "EUCLEAN" DataLoss;
    /// The caller's deadline passed.
    TimedOut "ETIMEDOUT" DeadlineExceeded;
    /// This mount or build does not have it.
    NotSup "ENOTSUP" Unimplemented;
    /// No token, or a bad or expired one.
    UnAuth "EUNAUTH" Unauthenticated;
    /// An internal fault; it is logged with the request's trace id.
    Fault "EFAULT" Internal;
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_found_again_by_its_name() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("EWHAT"), None);
    }
}
