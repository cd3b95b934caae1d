//! Work on all records of a file.

use super::*;
use crate::storage::EngineOptions;
use crate::storage::bulk::{self, BulkPurpose, ChangeOutcome, Item, Put};

#[test]
fn deletions_during_a_scan_hide_no_record() {
    const RECORDS: u32 = 5000;
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions { path: directory.path().join("pyzord.db"), ..EngineOptions::default() };
    write(&options.path, (0..RECORDS).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    let runtime = runtime();
    runtime.block_on(async {
        let whole = bulk::open("gdbm", &options, BulkPurpose::Empty).await.unwrap();
        let (mut found, mut cursor) = (BTreeMap::new(), None);
        loop {
            let page = whole.scan(cursor, 7).await.unwrap();
            assert!(page.items.len() <= 7);
            for item in &page.items {
                assert_eq!(found.insert(item.key.clone(), item.clone()), None, "returned twice");
            }
            assert!(
                whole.delete(page.items).await.unwrap().iter().all(|outcome| *outcome == ChangeOutcome::Done)
            );
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), RECORDS as usize);
        whole.close().await.unwrap();
    });
    assert_eq!(read(&options.path).len(), 0);
}

#[test]
fn changed_item_is_not_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let options = EngineOptions { path: directory.path().join("pyzord.db"), ..EngineOptions::default() };
    write(&options.path, (0..2).map(|number| (digest(number).to_hex().to_vec(), record(1))));
    runtime().block_on(async {
        let whole = bulk::open("gdbm", &options, BulkPurpose::Empty).await.unwrap();
        let items: Vec<Item> = whole.scan(None, 10).await.unwrap().items;
        let changed = items[0].clone();
        let digest = Digest::from_hex(&changed.key).unwrap();
        let put = Put { digest, record: crate::record::Record::default(), expires: None, held: None };
        assert_eq!(whole.store(vec![put]).await.unwrap(), [ChangeOutcome::Done]);
        assert_eq!(whole.delete(items).await.unwrap(), [ChangeOutcome::Changed, ChangeOutcome::Done]);
        assert!(whole.read(vec![changed.key]).await.unwrap()[0].is_some());
        whole.close().await.unwrap();
    });
    assert_eq!(read(&options.path).len(), 1);
}
