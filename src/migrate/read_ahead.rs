//! Reads a source one batch ahead of the batch that is being processed.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::storage::bulk::{Bulk, BulkError, Item};

/// Number of batches that are read before they are asked for.
const AHEAD: usize = 1;

/// Scans a database from its beginning to its end. Each message is a full batch, except the last one.
pub(super) fn read_ahead(
    source: &Arc<dyn Bulk>,
    batch: usize,
) -> mpsc::Receiver<Result<Vec<Item>, BulkError>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let source = Arc::clone(source);
    tokio::spawn(async move {
        let mut items = Vec::new();
        let mut from = None;
        loop {
            match source.scan(from.take(), batch - items.len()).await {
                Ok(page) => {
                    items.extend(page.items);
                    from = page.next;
                    if items.len() < batch && from.is_some() {
                        continue;
                    }
                    // A closed receiver has stopped for its own reason, and reports that.
                    if sender.send(Ok(std::mem::take(&mut items))).await.is_err() || from.is_none() {
                        return;
                    }
                }
                Err(error) => {
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            }
        }
    });
    receiver
}
