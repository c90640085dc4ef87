pub mod limits;
pub mod error;
pub mod clock;
pub mod ids;

pub mod proto;

pub mod metrics;
pub mod http;
