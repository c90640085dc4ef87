//! Grants and tokens, as commands and rows hold them.

use bytes::Bytes;

use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, TokenId},
    },
    cluster::access::{Grant, Pattern, Purpose, Role, Ticket, Token},
    proto::internal::v1 as internal,
};

/// As `devicedb.v1.Role` numbers them.
pub fn role_number(role: Role) -> u32 {
    match role {
        Role::Reader => 1,
        Role::Writer => 2,
        Role::Viewer => 3,
        Role::Backup => 4,
        Role::Pruner => 5,
        Role::Operator => 6,
        Role::Admin => 7,
    }
}

pub fn parse_role(number: u32) -> Result<Role> {
    let found = Role::ALL.into_iter().find(|role| role_number(*role) == number);
    found.ok_or_else(|| {
        Error::invalid(format!("{number} is the number of no role; a newer version may know it"))
    })
}

pub fn parse_token_id(number: u32) -> Result<TokenId> {
    match number {
        0 => Err(Error::invalid("a token's id is never 0")),
        number => Ok(TokenId(number)),
    }
}

pub(super) fn grant_record(grant: &Grant) -> internal::GrantRecord {
    internal::GrantRecord {
        identity: grant.identity.as_str().to_owned(),
        role: role_number(grant.role),
        sites: grant.sites.as_str().to_owned(),
    }
}

pub(super) fn parse_grant(record: internal::GrantRecord) -> Result<Grant> {
    let grant = Grant {
        identity: Pattern::new(record.identity)?,
        role: parse_role(record.role)?,
        sites: Pattern::new(record.sites)?,
    };
    grant.check()?;
    Ok(grant)
}

pub(super) fn token_record(token: &Token) -> internal::TokenRecord {
    let record = internal::TokenRecord {
        id: token.id.0,
        name: token.name.clone(),
        created_ms: token.created_ms,
        expires_ms: token.expires_ms,
        lineage: token.lineage.0,
        ..Default::default()
    };
    match &token.purpose {
        Purpose::Calls { role, sites, digest } => internal::TokenRecord {
            role: role_number(*role),
            sites: sites.as_str().to_owned(),
            digest: Bytes::copy_from_slice(digest),
            ..record
        },
        Purpose::Joins { left, key } => internal::TokenRecord {
            join_key: Bytes::copy_from_slice(key),
            joins_left: *left,
            ..record
        },
    }
}

pub(super) fn ticket_record(ticket: &Ticket) -> internal::JoinTicket {
    internal::JoinTicket { token_id: ticket.token.0, shown_ms: ticket.shown_ms }
}

pub(super) fn parse_ticket(ticket: internal::JoinTicket) -> Result<Ticket> {
    Ok(Ticket { token: parse_token_id(ticket.token_id)?, shown_ms: ticket.shown_ms })
}

fn bytes_32(bytes: &Bytes, what: &str) -> Result<[u8; 32]> {
    bytes
        .as_ref()
        .try_into()
        .map_err(|_| Error::invalid(format!("a token's {what} is 32 bytes, not {}", bytes.len())))
}

fn parse_purpose(record: &internal::TokenRecord) -> Result<Purpose> {
    if !record.join_key.is_empty() {
        let says_more = record.role != 0 || !record.sites.is_empty() || !record.digest.is_empty();
        if says_more {
            return Err(Error::invalid("a join token has no role, no sites and no digest"));
        }
        let key = bytes_32(&record.join_key, "join key")?;
        return Ok(Purpose::Joins { left: record.joins_left, key });
    }
    if record.joins_left > 0 {
        return Err(Error::invalid("a token by which nodes join has a join key"));
    }
    Ok(Purpose::Calls {
        role: parse_role(record.role)?,
        sites: Pattern::new(&*record.sites)?,
        digest: bytes_32(&record.digest, "digest")?,
    })
}

pub(super) fn parse_token(record: internal::TokenRecord) -> Result<Token> {
    let token = Token {
        purpose: parse_purpose(&record)?,
        id: parse_token_id(record.id)?,
        name: record.name,
        created_ms: record.created_ms,
        expires_ms: record.expires_ms,
        lineage: Lineage(record.lineage),
    };
    token.check()?;
    Ok(token)
}
