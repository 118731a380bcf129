//! Sessions: what a bearer has written and must see again, at whichever sidecar it asks next (G5).
//!
//! `Invalidate` answers a session token. A [`Session`] collects up to three of them, one per incarnation that issued
//! any, and travels with later resolves and invalidations; the sidecar asked answers once it has applied what they name.
//!
//! A token of the first format has 25 bytes: version 1, the issuer's incarnation in 16 and a sequence in 8, big-endian.
//! Of two tokens of one incarnation the one with the higher sequence says more, so the other is let go. Tokens of
//! formats that this client does not know are kept as they are.
//!
//! Between an application's own processes a session travels as text: the tokens in lower-case hexadecimal, separated by
//! dots, in the HTTP header or gRPC metadata entry [`SESSION_HEADER`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use grapevine_proto::v1;
use thiserror::Error;

/// The HTTP header and gRPC metadata name under which applications hand sessions on.
pub const SESSION_HEADER: &str = "grapevine-session";
/// The gRPC metadata name that says how long to wait for it, in milliseconds.
const SESSION_WAIT_ENTRY: &str = "grapevine-session-wait-ms";
/// The most tokens in a session.
pub const SESSION_TOKENS_MAX: usize = 3;
/// The longest token, in bytes.
pub const SESSION_TOKEN_BYTES_MAX: usize = 64;
/// How long a sidecar waits for a session unless told otherwise.
pub const SESSION_WAIT_DEFAULT: Duration = Duration::from_secs(1);
/// The longest it can be told to wait.
pub const SESSION_WAIT_MAX: Duration = Duration::from_mins(1);

const TOKEN_V1_BYTES: usize = 25;

/// What a bearer must be able to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    tokens: Vec<Bytes>,
    wait: Duration,
}

/// Why a token or a text is refused.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum SessionError {
    /// A fourth issuer. Start a new session once the older writes are no longer needed, or keep to fewer sidecars.
    #[error(
        "the session holds tokens of {SESSION_TOKENS_MAX} incarnations already, which is the limit"
    )]
    Full,
    /// A token is empty or too long.
    #[error("a session token has {bytes} bytes; it must have 1 to {SESSION_TOKEN_BYTES_MAX}")]
    TokenSize {
        /// Its length.
        bytes: usize,
    },
    /// The text is not hexadecimal.
    #[error("a session is hexadecimal tokens separated by dots; this one has {0:?}")]
    NotHex(String),
}

impl Default for Session {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            wait: SESSION_WAIT_DEFAULT,
        }
    }
}

impl Session {
    /// A session that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a sidecar may wait to catch up with it; 1 ms to [`SESSION_WAIT_MAX`], 1 s by default.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait.clamp(Duration::from_millis(1), SESSION_WAIT_MAX);
        self
    }

    /// Adds what an invalidation answered. A token of the same incarnation with a lower sequence is let go.
    pub fn add(&mut self, token: &Bytes) -> Result<(), SessionError> {
        if token.is_empty() || token.len() > SESSION_TOKEN_BYTES_MAX {
            return Err(SessionError::TokenSize { bytes: token.len() });
        }
        if self.tokens.contains(token) {
            return Ok(());
        }
        let same_issuer = |held: &Bytes| match (parts(held), parts(token)) {
            (Some((held_by, _)), Some((issuer, _))) => held_by == issuer,
            _ => false,
        };
        if let Some(held) = self.tokens.iter_mut().find(|held| same_issuer(held)) {
            // The sequence is the token's big-endian end: comparing the tokens compares it.
            if *token > *held {
                *held = token.clone();
            }
            return Ok(());
        }
        if self.tokens.len() >= SESSION_TOKENS_MAX {
            return Err(SessionError::Full);
        }
        self.tokens.push(token.clone());
        Ok(())
    }

    /// Whether it has seen nothing.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens, oldest issuer first.
    pub fn tokens(&self) -> &[Bytes] {
        &self.tokens
    }

    /// How long a sidecar may wait.
    pub fn wait_duration(&self) -> Duration {
        self.wait
    }

    /// The session as a header value, to be sent under [`SESSION_HEADER`].
    pub fn to_header_value(&self) -> http::HeaderValue {
        http::HeaderValue::from_str(&self.to_string())
            .expect("invariant: hexadecimal digits and dots")
    }

    /// The session in a request's headers; empty when there is none.
    pub fn from_headers(headers: &http::HeaderMap) -> Result<Self, SessionError> {
        match headers.get(SESSION_HEADER) {
            None => Ok(Self::new()),
            Some(value) => match value.to_str() {
                Ok(text) => text.parse(),
                Err(_) => Err(SessionError::NotHex("bytes outside ASCII".to_owned())),
            },
        }
    }

    /// A call that comes after what the session has seen.
    pub(crate) fn request<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        if !self.is_empty() {
            let metadata = request.metadata_mut().as_mut();
            metadata.insert(SESSION_HEADER, self.to_header_value());
            metadata.insert(SESSION_WAIT_ENTRY, self.wait_ms().into());
        }
        request
    }

    /// What a call may take longer for it.
    pub(crate) fn extra(&self) -> Duration {
        if self.is_empty() {
            Duration::ZERO
        } else {
            self.wait
        }
    }

    fn wait_ms(&self) -> u32 {
        u32::try_from(self.wait.as_millis()).unwrap_or(u32::MAX)
    }

    pub(crate) fn to_wire(&self) -> v1::Session {
        v1::Session {
            tokens: self.tokens.clone(),
            wait_ms: self.wait_ms(),
        }
    }
}

/// Issuer and sequence of a token of the first format.
fn parts(token: &Bytes) -> Option<(&[u8], &[u8])> {
    (token.len() == TOKEN_V1_BYTES && token[0] == 1).then(|| token[1..].split_at(16))
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, token) in self.tokens.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            for byte in token {
                write!(f, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Session {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<Self, SessionError> {
        let mut session = Self::new();
        for token in text.split('.').filter(|_| !text.is_empty()) {
            session.add(&decode_hex(token)?)?;
        }
        Ok(session)
    }
}

fn decode_hex(text: &str) -> Result<Bytes, SessionError> {
    if text.len() > 2 * SESSION_TOKEN_BYTES_MAX {
        return Err(SessionError::TokenSize {
            bytes: text.len() / 2,
        });
    }
    let not_hex = || SessionError::NotHex(text.to_owned());
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    if !text.len().is_multiple_of(2) {
        return Err(not_hex());
    }
    let pair = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    text.as_bytes()
        .chunks_exact(2)
        .map(pair)
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
        .ok_or_else(not_hex)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn token(issuer: u8, sequence: u64) -> Bytes {
        let mut bytes = vec![1];
        bytes.extend([issuer; 16]);
        bytes.extend(sequence.to_be_bytes());
        bytes.into()
    }

    #[test]
    fn g5_one_token_per_issuer_the_latest() {
        let mut session = Session::new();
        for sequence in [5, 300, 7] {
            session.add(&token(1, sequence)).unwrap();
        }
        assert_eq!(session.tokens(), [token(1, 300)]);
        session.add(&token(2, 1)).unwrap();
        session
            .add(&Bytes::from_static(b"of a later format"))
            .unwrap();
        assert_eq!(session.add(&token(3, 1)), Err(SessionError::Full));
        session.add(&token(2, 9)).unwrap();
        assert_eq!(session.tokens()[1], token(2, 9));
    }

    #[test]
    fn the_text_and_the_header_give_the_session_back() {
        let mut session = Session::new();
        session.add(&token(0xab, 0x0102)).unwrap();
        session.add(&token(2, 1)).unwrap();
        let text = session.to_string();
        assert_eq!(
            &text[..51],
            "01abababababababababababababababab0000000000000102."
        );
        assert_eq!(text.parse(), Ok(session.clone()));
        let mut headers = http::HeaderMap::new();
        assert_eq!(Session::from_headers(&headers), Ok(Session::new()));
        headers.insert(SESSION_HEADER, session.to_header_value());
        assert_eq!(Session::from_headers(&headers), Ok(session));
        assert_eq!("".parse(), Ok(Session::new()));
    }

    #[test]
    fn malformed_texts_are_refused() {
        for text in [
            ".",
            "0",
            "0g",
            "zz",
            "01..02",
            "é",
            &"00".repeat(65),
            "01.02.03.04",
        ] {
            text.parse::<Session>().unwrap_err();
        }
        assert_eq!(
            Session::new().add(&Bytes::new()),
            Err(SessionError::TokenSize { bytes: 0 })
        );
    }

    #[test]
    fn the_wait_stays_within_the_contract() {
        assert_eq!(Session::new().wait(Duration::MAX).to_wire().wait_ms, 60_000);
        assert_eq!(Session::new().wait(Duration::ZERO).to_wire().wait_ms, 1);
        assert_eq!(Session::new().to_wire().wait_ms, 1_000);
    }
}
