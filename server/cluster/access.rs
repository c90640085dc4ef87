//! Who may do what, as far as the cluster says it itself: grants, tokens for scripts, and tokens
//! for machines that join.
//!
//! - A grant gives a role to everybody whose identity fits its pattern. A token is an identity of
//!   its own, with one role.
//! - A role that reads or writes data is for the sites that fit a pattern; all others are for the
//!   cluster as a whole.
//! - A join token lets so many machines become nodes, where the cluster asks them for one, and
//!   makes no calls. The cluster keeps its public key: whoever joins signs, and shows the secret to
//!   nobody.
//! - Nobody becomes an admin here. Who that is, certificates and the nodes' own settings say, so a
//!   restore locks no operator out and lets nobody in as an admin.
//! - Of a token the cluster keeps what tells whoever has it, which proves nothing itself, and the
//!   history in which it was made or resumed last. In any other history it is suspended: what was
//!   revoked after a snapshot does not come back with it unnoticed.
//!
//! Does not know which method needs which role (`rpc::roles`), nor what time it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use crate::base::{
    error::{Error, Result},
    ids::{Lineage, TokenId},
    limits,
};

/// What somebody may do. `rpc::roles` says which methods that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads data of its sites.
    Reader,
    /// Reads and writes data of its sites.
    Writer,
    /// Looks at the cluster and its metrics; sees no data.
    Viewer,
    /// Takes snapshots and downloads them; deletes none.
    Backup,
    /// Deletes snapshots; downloads none.
    Pruner,
    /// Changes nodes, sites and relays, and takes snapshots; deletes and downloads none, and sees
    /// no data.
    Operator,
    /// Everything.
    Admin,
}

/// A text, or the beginning of one with `*` behind it. `*` alone is every text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

/// Gives a role to identities.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    pub identity: Pattern,
    pub role: Role,
    pub sites: Pattern,
}

/// What a script or a machine proves itself with, without the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    /// For people, and in the log of who did what.
    pub name: String,
    pub purpose: Purpose,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    /// It proves nothing from then on.
    pub expires_ms: u64,
    /// The history in which it was made, or resumed last.
    pub lineage: Lineage,
}

/// What a token is for, and what tells whoever has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Calls in a role. Blake3 of the secret.
    Calls { role: Role, sites: Pattern, digest: [u8; 32] },
    /// Machines that become nodes: so many still. The public key (Ed25519) of the secret.
    Joins { left: u32, key: [u8; 32] },
}

/// A machine that joins has shown that it has a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub token: TokenId,
    /// Milliseconds since 1970, by the clock of the node that was asked.
    pub shown_ms: u64,
}

/// All grants and tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    grants: BTreeSet<Grant>,
    tokens: BTreeMap<TokenId, Token>,
}

impl Role {
    pub const ALL: [Role; 7] = [
        Role::Reader,
        Role::Writer,
        Role::Viewer,
        Role::Backup,
        Role::Pruner,
        Role::Operator,
        Role::Admin,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Writer => "writer",
            Role::Viewer => "viewer",
            Role::Backup => "backup",
            Role::Pruner => "pruner",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// Whether it reads or writes data of sites, and may be limited to some of them.
    pub fn is_of_sites(self) -> bool {
        matches!(self, Role::Reader | Role::Writer)
    }

    /// Refuses what cannot be given: to be an admin, and limits where there are none.
    fn check_given(self, sites: &Pattern) -> Result<()> {
        if self == Role::Admin {
            return Err(Error::invalid(
                "nobody is made an admin by a grant or a token: issue a certificate for one \
                 (ddbctl cert client NAME --admin), or name an identity when nodes start \
                 (devicedb start --admin IDENTITY)",
            ));
        }
        if !self.is_of_sites() && *sites != Pattern::any() {
            return Err(Error::invalid(format!(
                "{} is a role for the cluster as a whole, and cannot be limited to the sites \
                 {sites}; reader and writer can",
                self.name()
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Role> {
        Role::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| {
            let all: Vec<&str> = Role::ALL.iter().map(|role| role.name()).collect();
            Error::invalid(format!("{text:?} is no role; there are {}", all.join(", ")))
        })
    }
}

impl Pattern {
    pub fn new(text: impl Into<String>) -> Result<Pattern> {
        let text = text.into();
        let most = limits::PATTERN_BYTES_MAX;
        if text.is_empty() || text.len() > most {
            let has = text.len();
            return Err(Error::invalid(format!("a pattern is 1 to {most} bytes long, not {has}")));
        }
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(Error::invalid(format!(
                "a pattern must not hold control characters, as {c:?} in {text:?}"
            )));
        }
        if text.trim_end_matches('*').contains('*') || text.ends_with("**") {
            return Err(Error::invalid(format!(
                "{text:?} is no pattern: one * at the end stands for whatever follows, and \
                 elsewhere there is none"
            )));
        }
        Ok(Pattern(text))
    }

    pub fn any() -> Pattern {
        Pattern("*".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn fits(&self, text: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => text.starts_with(beginning),
            None => text == self.0,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Pattern> {
        Pattern::new(text)
    }
}

impl Grant {
    pub fn check(&self) -> Result<()> {
        self.role.check_given(&self.sites)
    }
}

impl Token {
    pub fn check(&self) -> Result<()> {
        match &self.purpose {
            Purpose::Calls { role, sites, .. } => role.check_given(sites)?,
            Purpose::Joins { left, .. } => {
                let most = limits::NODES_MAX as u32;
                if *left > most {
                    return Err(Error::invalid(format!(
                        "{left} nodes cannot join by one token: a cluster has at most {most}"
                    )));
                }
            }
        }
        let (has, most) = (self.name.len(), limits::TOKEN_NAME_BYTES_MAX);
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=most).contains(&has) || !self.name.chars().all(fine) {
            return Err(Error::invalid(format!(
                "{:?} is no name for a token, which is 1 to {most} letters, digits, '-', '_' and \
                 '.'",
                self.name
            )));
        }
        if self.expires_ms <= self.created_ms {
            return Err(Error::invalid("a token has to be valid for some time"));
        }
        Ok(())
    }
}

impl Access {
    /// Rows that no command can have written are `Corrupt`.
    pub fn from_rows(grants: Vec<Grant>, tokens: Vec<Token>) -> Result<Access> {
        grants.iter().try_for_each(Grant::check)?;
        tokens.iter().try_for_each(Token::check)?;
        Ok(Access {
            grants: grants.into_iter().collect(),
            tokens: tokens.into_iter().map(|token| (token.id, token)).collect(),
        })
    }

    pub fn grants(&self) -> &BTreeSet<Grant> {
        &self.grants
    }

    pub fn tokens(&self) -> &BTreeMap<TokenId, Token> {
        &self.tokens
    }

    /// Whether it is news.
    pub fn add_grant(&mut self, grant: &Grant) -> Result<bool> {
        grant.check()?;
        let most = limits::GRANTS_MAX;
        if self.grants.len() >= most && !self.grants.contains(grant) {
            return Err(Error::conflict(format!(
                "there are {most} grants, and no more are kept: remove some, or say several at \
                 once with a pattern"
            )));
        }
        Ok(self.grants.insert(grant.clone()))
    }

    pub fn remove_grant(&mut self, grant: &Grant) -> Result<()> {
        if self.grants.remove(grant) {
            return Ok(());
        }
        let Grant { identity, role, sites } = grant;
        Err(Error::not_found(format!(
            "there is no grant of {role} to {identity} for the sites {sites}; see ddbctl grant \
             list"
        )))
    }

    /// Whether it is news: the same token may be made again, another of its name or id may not.
    pub fn create_token(&mut self, token: &Token) -> Result<bool> {
        token.check()?;
        if self.tokens.get(&token.id) == Some(token) {
            return Ok(false);
        }
        if let Some(other) = self.tokens.values().find(|t| t.name == token.name) {
            return Err(Error::conflict(format!(
                "there is a token named {} (id {}): revoke it first, or choose another name",
                other.name, other.id
            )));
        }
        if self.tokens.contains_key(&token.id) {
            return Err(Error::conflict(format!("there is a token of id {}: try again", token.id)));
        }
        let most = limits::TOKENS_MAX;
        if self.tokens.len() >= most {
            return Err(Error::conflict(format!(
                "there are {most} tokens, and no more are kept: revoke those that have expired"
            )));
        }
        self.tokens.insert(token.id, token.clone());
        Ok(true)
    }

    /// One machine less becomes a node by the token from now on.
    pub fn spend_join(&mut self, ticket: Option<&Ticket>, lineage: Lineage) -> Result<TokenId> {
        let ticket = ticket.ok_or_else(|| may_not_join("this machine has brought none"))?;
        let Some(token) = self.tokens.get_mut(&ticket.token) else {
            return Err(may_not_join(&unknown_join_token(ticket.token)));
        };
        if let Some(why) = token.lets_nobody_join(ticket.shown_ms, lineage) {
            return Err(may_not_join(&why));
        }
        if let Purpose::Joins { left, .. } = &mut token.purpose {
            *left -= 1;
        }
        Ok(token.id)
    }

    pub fn revoke_token(&mut self, id: TokenId) -> Result<()> {
        self.tokens.remove(&id).map(drop).ok_or_else(|| no_token(id))
    }

    /// It proves something in this history too. Whether that is news.
    pub fn resume_token(&mut self, id: TokenId, lineage: Lineage) -> Result<bool> {
        let token = self.tokens.get_mut(&id).ok_or_else(|| no_token(id))?;
        let news = token.lineage != lineage;
        token.lineage = lineage;
        Ok(news)
    }
}

impl Token {
    /// Why no machine becomes a node by it, then and in that history; none where one does.
    pub fn lets_nobody_join(&self, shown_ms: u64, lineage: Lineage) -> Option<String> {
        let Token { id, name, purpose, .. } = self;
        match purpose {
            Purpose::Calls { role, .. } => {
                Some(format!("the token {name} is for calls, as {role}, and lets no machine join"))
            }
            _ if self.lineage != lineage => Some(format!(
                "the join token {name} is suspended, since the cluster was restored after it was \
                 made: an admin has it hold again with ddbctl token resume {id}"
            )),
            _ if shown_ms >= self.expires_ms => {
                Some(format!("the join token {name} has expired: make another one"))
            }
            Purpose::Joins { left: 0, .. } => Some(format!(
                "the join token {name} is used up: make another one, with --uses for as many \
                 machines as shall join"
            )),
            Purpose::Joins { .. } => None,
        }
    }
}

/// What is said to a machine that may not join without a token that holds.
pub fn may_not_join(why: &str) -> Error {
    Error::denied(format!(
        "this cluster takes machines in by join tokens alone, and {why} (an admin makes one with \
         ddbctl token create NAME --join, and devicedb start --join-token FILE takes it)"
    ))
}

/// Why a token that the cluster does not have lets nobody join.
pub fn unknown_join_token(id: TokenId) -> String {
    format!(
        "it has no join token {id}, or its secret is another one: it may have been revoked, or be \
         another cluster's"
    )
}

fn no_token(id: TokenId) -> Error {
    Error::not_found(format!("there is no token {id}; see ddbctl token list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    fn calls(role: Role) -> Purpose {
        Purpose::Calls { role, sites: Pattern::any(), digest: [1; 32] }
    }

    #[test]
    fn a_pattern_is_a_text_or_a_beginning_and_stars_elsewhere_are_refused() {
        assert!(pattern("shop-1").fits("shop-1") && !pattern("shop-1").fits("shop-10"));
        assert!(pattern("shop-*").fits("shop-10") && !pattern("shop-*").fits("store-1"));
        assert!(pattern("shop-*").fits("shop-") && Pattern::any().fits(""));
        for wrong in ["", "*a", "a*b", "a**", "**", "a\n", &"x".repeat(600)] {
            assert!(Pattern::new(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nobody_is_made_an_admin_and_only_roles_of_data_are_limited_to_sites() {
        let grant = |role, sites| Grant { identity: pattern("x"), role, sites: pattern(sites) };
        for role in Role::ALL {
            assert_eq!(grant(role, "*").check().is_ok(), role != Role::Admin, "{role}");
            assert_eq!(grant(role, "shop-*").check().is_ok(), role.is_of_sites(), "{role}");
            assert_eq!(role.name().parse::<Role>().unwrap(), role);
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn grants_and_tokens_come_and_go_once_and_a_name_is_one_tokens() {
        let mut all = Access::default();
        let grant = Grant { identity: pattern("a*"), role: Role::Reader, sites: pattern("shop-*") };
        assert_eq!(all.add_grant(&grant), Ok(true));
        assert_eq!(all.add_grant(&grant), Ok(false));
        assert_eq!(all.remove_grant(&grant), Ok(()));
        assert!(all.remove_grant(&grant).unwrap_err().message.contains("no grant of reader to a*"));
        let token = Token {
            id: TokenId(7),
            name: "nightly".into(),
            purpose: calls(Role::Backup),
            created_ms: 1,
            expires_ms: 2,
            lineage: Lineage(5),
        };
        assert_eq!(all.create_token(&token), Ok(true));
        assert_eq!(all.create_token(&token), Ok(false));
        let named = Token { id: TokenId(8), ..token.clone() };
        assert!(all.create_token(&named).unwrap_err().message.contains("named nightly"));
        let same_id = Token { name: "other".into(), ..token.clone() };
        assert!(all.create_token(&same_id).unwrap_err().message.contains("of id 00000007"));
        for wrong in [
            Token { name: "a b".into(), id: TokenId(9), ..token.clone() },
            Token { name: String::new(), id: TokenId(9), ..token.clone() },
            Token { expires_ms: 1, id: TokenId(9), ..token.clone() },
            Token { purpose: calls(Role::Admin), id: TokenId(9), ..token.clone() },
            Token {
                purpose: Purpose::Joins { left: limits::NODES_MAX as u32 + 1, key: [1; 32] },
                id: TokenId(9),
                ..token.clone()
            },
        ] {
            assert!(all.create_token(&wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(all.resume_token(TokenId(7), Lineage(5)), Ok(false));
        assert_eq!(all.resume_token(TokenId(7), Lineage(6)), Ok(true));
        assert_eq!(all.tokens()[&TokenId(7)].lineage, Lineage(6));
        assert_eq!(all.revoke_token(TokenId(7)), Ok(()));
        assert!(all.revoke_token(TokenId(7)).is_err());
        assert!(all.resume_token(TokenId(7), Lineage(6)).is_err());
    }

    #[test]
    fn a_join_token_lets_so_many_in_while_it_holds_and_other_tokens_nobody() {
        let mut all = Access::default();
        let token = |id, purpose| Token {
            id: TokenId(id),
            name: format!("t{id}"),
            purpose,
            created_ms: 1,
            expires_ms: 10,
            lineage: Lineage(5),
        };
        all.create_token(&token(1, Purpose::Joins { left: 2, key: [1; 32] })).unwrap();
        all.create_token(&token(2, calls(Role::Operator))).unwrap();
        let mut shown = |token, shown_ms, lineage| {
            let ticket = Ticket { token: TokenId(token), shown_ms };
            all.spend_join(Some(&ticket), Lineage(lineage)).map_err(|e| e.message)
        };
        for (ticket, words) in [
            ((3, 2, 5), "no join token 00000003"),
            ((2, 2, 5), "for calls, as operator"),
            ((1, 2, 6), "is suspended"),
            ((1, 10, 5), "has expired"),
        ] {
            let (token, shown_ms, lineage) = ticket;
            let told = shown(token, shown_ms, lineage).unwrap_err();
            assert!(told.contains(words), "{told}");
        }
        assert_eq!(shown(1, 9, 5), Ok(TokenId(1)));
        assert_eq!(shown(1, 9, 5), Ok(TokenId(1)));
        assert!(shown(1, 9, 5).unwrap_err().contains("used up"));
        assert!(all.spend_join(None, Lineage(5)).unwrap_err().message.contains("brought none"));
    }

    #[test]
    fn what_is_too_many_is_refused() {
        let mut all = Access::default();
        for n in 0..limits::GRANTS_MAX {
            let identity = pattern(&format!("id-{n}"));
            all.add_grant(&Grant { identity, role: Role::Viewer, sites: Pattern::any() }).unwrap();
        }
        let more = Grant { identity: pattern("x"), role: Role::Viewer, sites: Pattern::any() };
        assert!(all.add_grant(&more).unwrap_err().message.contains("no more are kept"));
    }
}
