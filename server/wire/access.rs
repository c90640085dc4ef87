//! Grants and tokens, as commands and rows hold them.

use bytes::Bytes;

use crate::{
    base::{
        error::{Error, Result},
        ids::{Lineage, TokenId},
    },
    cluster::access::{Grant, Pattern, Role, Token},
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

pub(super) fn parse_token_id(number: u32) -> Result<TokenId> {
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
    internal::TokenRecord {
        id: token.id.0,
        name: token.name.clone(),
        role: role_number(token.role),
        sites: token.sites.as_str().to_owned(),
        digest: Bytes::copy_from_slice(&token.digest),
        created_ms: token.created_ms,
        expires_ms: token.expires_ms,
        lineage: token.lineage.0,
    }
}

pub(super) fn parse_token(record: internal::TokenRecord) -> Result<Token> {
    let digest = record.digest.as_ref().try_into().map_err(|_| {
        Error::invalid(format!("a token's digest is 32 bytes, not {}", record.digest.len()))
    })?;
    let token = Token {
        id: parse_token_id(record.id)?,
        name: record.name,
        role: parse_role(record.role)?,
        sites: Pattern::new(record.sites)?,
        digest,
        created_ms: record.created_ms,
        expires_ms: record.expires_ms,
        lineage: Lineage(record.lineage),
    };
    token.check()?;
    Ok(token)
}
