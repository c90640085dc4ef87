//! Why handshakes come to nothing.

use super::labels::Why;

/// Why a handshake came to nothing, or the certificate that it brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHandshake {
    /// It was not done within `limits::HANDSHAKE`, or nothing came.
    Late,
    /// As many as the node takes began after it.
    Room,
    /// What came is no TLS 1.3, or the other side has broken it off.
    Broken,
    /// The certificate has expired or is not valid yet.
    Dates,
    /// The certificate is of no CA that this node trusts.
    Issuer,
    /// The certificate is on the list of revoked ones.
    Revoked,
    /// The certificate says nobody's name, or is not fit for this.
    Unfit,
}

impl NoHandshake {
    pub(super) const ALL: [NoHandshake; 7] = [
        NoHandshake::Late,
        NoHandshake::Room,
        NoHandshake::Broken,
        NoHandshake::Dates,
        NoHandshake::Issuer,
        NoHandshake::Revoked,
        NoHandshake::Unfit,
    ];

    pub(super) fn label(self) -> Why {
        let why = match self {
            NoHandshake::Late => "late",
            NoHandshake::Room => "room",
            NoHandshake::Broken => "broken",
            NoHandshake::Dates => "dates",
            NoHandshake::Issuer => "issuer",
            NoHandshake::Revoked => "revoked",
            NoHandshake::Unfit => "unfit",
        };
        Why { why }
    }
}
