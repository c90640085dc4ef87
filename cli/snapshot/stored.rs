//! How far a snapshot is in the nodes' repository, as it is shown.

use serde::Serialize;

use crate::{
    ctl::term::{
        output::{Look, View},
        text,
    },
    proto::v1::{self, UploadStatus as Status},
};

/// How far a snapshot is in the repository.
#[derive(Clone, Debug, Serialize)]
pub struct Upload {
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    repository: String,
    bytes_done: u64,
    bytes: u64,
    new_bytes: u64,
    root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    catalogue: String,
    /// As text, like all nodes in what other tools may read.
    #[serde(skip_serializing_if = "String::is_empty")]
    node_id: String,
}

impl Upload {
    pub fn new(upload: v1::Upload) -> Upload {
        let status = match upload.status() {
            Status::Unspecified => "unknown",
            Status::Absent => "absent",
            Status::Running => "running",
            Status::Stored => "stored",
            Status::Failed => "failed",
        };
        let node_id = if upload.node_id == 0 { String::new() } else { upload.node_id.to_string() };
        Upload {
            status,
            reason: upload.reason,
            repository: upload.repository,
            bytes_done: upload.bytes_done,
            bytes: upload.bytes,
            new_bytes: upload.new_bytes,
            root: upload.root,
            catalogue: upload.catalogue,
            node_id,
        }
    }
}

impl View for Upload {
    fn text(&self, _: Look) -> String {
        let Upload { status, repository, bytes_done, bytes, new_bytes, root, .. } = self;
        let catalogue = match self.catalogue.as_str() {
            "" => String::new(),
            catalogue => format!("catalogue = {catalogue}\n"),
        };
        let reason = text::line(&self.reason);
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        match *status {
            "stored" => {
                let note = if reason.is_empty() { reason } else { format!("note = {reason}\n") };
                format!(
                    "repository = {repository}\nstored = {bytes} bytes, {new_bytes} of them \
                     new\nroot = {root}\n{catalogue}{note}"
                )
            }
            "running" => format!(
                "repository = {repository}\nstored = {bytes_done} of {bytes} bytes, by node \
                 {}{because}\n",
                self.node_id
            ),
            status => format!("repository = {repository}\nstored = {status}{because}\n"),
        }
    }
}
