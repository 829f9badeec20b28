//! The fields of the examples: length in bytes, and what it says in the document.

pub(super) const HEADER_FIELDS: &str = "\
8 magic: memlogSG
4 version: 2
4 check
16 store
8 id: 2
8 salt
8 base: 1052672
8 capacity: 1048576
4 layout: 1, a log segment
4 incarnation: 3
8 history
8 compatible: none
8 incompatible: none
32 reserved";

pub(super) const LINK_FIELDS: &str = "\
4 check
4 header_len: 88
8 salt
8 lsn: 1052800 = base + 128
8 durable: 1000000
8 time: 1763884800000
4 body_len: 0
4 digest: 0
4 records: 0
4 agents: 0
4 flags: LINKED
4 incarnation: 3
8 history
8 link id: 1
8 link end: 1010000";

pub(super) const APPEND_FIELDS: &str = "\
4 check
4 header_len: 112
8 salt
8 lsn: 1052888 = base + 216
8 durable: 1000000
8 time: 1763884800000
4 body_len: 40
4 digest
4 records: 1
4 agents: 1
4 flags: none
4 incarnation: 3
8 history
8 agent 0: life: 0, absent
8 next: 1
8 floor: 1
2 flags: none
2 name_len: 8
4 zero
8 name: acme/t-7
4 record at 328 of the file: check
4 len: 39
1 type: append
1 flags: none
2 kind: 2, user
4 agent: 0
8 at: 1763884800000
4 weight: 3
4 meta_len: 2
2 meta: {}
5 payload: hello
1 padding";

pub(super) const CHANGES_FIELDS: &str = "\
4 check
4 header_len: 152
8 salt
8 lsn: 1053040 = base + 368
8 durable: 1052888
8 time: 1763884800000
4 body_len: 232
4 digest
4 records: 8
4 agents: 2
4 flags: none
4 incarnation: 3
8 history
8 agent 0: life: 1052888
8 next: 2
8 floor: 1
2 flags: none
2 name_len: 8
4 zero
8 name: acme/t-7
8 agent 1: life: 4224
8 next: 9
8 floor: 1
2 flags: none
2 name_len: 8
4 zero
8 name: acme/t-8
4 record at 520 of the file: check
4 len: 42
1 type: append
1 flags: JOINED, EXPIRES
2 kind: 300
4 agent: 0
8 at: 1763884800005
4 weight: 0
4 meta_len: 0
8 expires: 1763884801000
2 payload: ok
6 padding
4 record at 568: check
4 len: 34
1 type: set
1 flags: none
2 zero
4 agent: 0
4 key_len: 4
4 zero
4 key: goal
6 value: refund
6 padding
4 record at 608: check
4 len: 19
1 type: unset
1 flags: none
2 zero
4 agent: 0
3 key: old
5 padding
4 record at 632: check
4 len: 24
1 type: redact
1 flags: none
2 zero
4 agent: 0
8 seq: 1
4 record at 656: check
4 len: 24
1 type: truncate
1 flags: none
2 zero
4 agent: 0
8 seq: 2
4 record at 680: check
4 len: 40
1 type: policy
1 flags: none
2 zero
4 agent: 0
8 max_entries: 100
8 max_bytes: no limit
8 max_age: no limit
4 record at 720: check
4 len: 16
1 type: policy
1 flags: CLEARED
2 zero
4 agent: 1
4 record at 736: check
4 len: 16
1 type: forget
1 flags: none
2 zero
4 agent: 1";

pub(super) const PREFIX_FIELDS: &str = "\
4 check
4 header_len: 72
8 salt
8 lsn: 1053424 = base + 752
8 durable: 1053040
8 time: 1763884800000
4 body_len: 32
4 digest
4 records: 1
4 agents: 0
4 flags: none
4 incarnation: 3
8 history
4 record at 824 of the file: check
4 len: 25
1 type: forget prefix
1 flags: none
2 zero
4 agent: none
9 prefix: acme/old/
7 padding";

pub(super) const KEPT_FIELDS: &str = "\
4 check
4 header_len: 112
8 salt
8 lsn: 1052928 = base + 128
8 durable: 1052800, the base
8 time: 1763884800000
4 body_len: 96
4 digest
4 records: 2
4 agents: 1
4 flags: none
4 incarnation: 3
8 history
8 agent 0: life: 1052888
8 next: 2
8 floor: 2
2 flags: STATE, REDACTED, POLICY, EXPIRES
2 name_len: 8
4 zero
8 name: acme/t-7
4 record at 240 of the file: check
4 len: 42
1 type: append
1 flags: JOINED, EXPIRES
2 kind: 300
4 agent: 0
8 at: 1763884800005
4 weight: 0
4 meta_len: 0
8 expires: 1763884801000
2 payload: ok
6 padding
4 record at 288: check
4 len: 42
1 type: kept set
1 flags: none
2 zero
4 agent: 0
8 revision: 1053040
4 key_len: 4
4 zero
4 key: goal
6 value: refund
6 padding";

pub(super) const KEPT_PREFIX_FIELDS: &str = "\
4 check
4 header_len: 72
8 salt
8 lsn: 1053136 = base + 336
8 durable: 1052800
8 time: 1763884800000
4 body_len: 40
4 digest
4 records: 1
4 agents: 0
4 flags: none
4 incarnation: 3
8 history
4 record at 408 of the file: check
4 len: 33
1 type: kept prefix
1 flags: none
2 zero
4 agent: none
8 lsn: 1053424
9 prefix: acme/old/
7 padding";

pub(super) const DIRECTORY_FIELDS: &str = "\
4 check
2 count: 2
2 level: 0, a leaf
2 slot 0: entry at 12
2 slot 1: entry at 28
2 name_len: 8
2 zero
4 target: the block at 1044480
8 name: acme/t-7
2 name_len: 8
2 zero
4 target: the block at 1044752
8 name: acme/t-8
4052 filler";

pub(super) const BLOCK_FIELDS: &str = "\
4 check
4 len: 168
8 life: 1052888
8 next: 3
8 floor: 2
8 first_seq: 1
4 count: 2
2 flags: STATE, REDACTED, POLICY, EXPIRES, POLICY_SET, STATES, REDACTIONS, SOONEST
2 name_len: 8
8 bytes: 9
8 weight: 3
8 name: acme/t-7
8 max_entries: 100
8 max_bytes: no limit
8 max_age: no limit
4 state_count: 2
4 root: 0, the first page
8 pages_len: 104
8 state_bytes: 40
4 redacted_count: 1
4 zero
4 offset of seq 1: 328
4 offset of seq 2: 520
8 maximum of group 0: 1763884800005
4 unweighted: 1
4 joined: seq 2
8 soonest of group 0: 1763884801000
8 redacted: 1
4 the state page of acme/t-7: check
4 len: 104
4 before: 0
2 count: 2
2 level: 0
2 slot 0: item at 24 of the page
2 slot 1: item at 64
4 padding
8 revision: 1053040
8 tag: 0
4 offset: 568
4 len: 40
2 key_len: 4
6 zero
4 key: goal
4 padding
8 revision: 1053040
8 tag: 0
4 offset: 0, unset
4 len: 0
2 key_len: 3
6 zero
3 key: old
5 padding
4 the block of acme/t-8: check
4 len: 72
8 life: 0, a tombstone
8 next: 1
8 floor: 1
8 first_seq: 1
4 count: 0
2 flags: none
2 name_len: 8
8 bytes: 0
8 weight: 0
8 name: acme/t-8";

pub(super) const PREFIXES_FIELDS: &str = "\
4 check
4 len: 3432
4 count: 1
4 bounds: none
8 lsn: 1053424
2 length: 9
9 prefix: acme/old/
5 padding
3392 filler";

pub(super) const RUN_PREFIXES_FIELDS: &str = "\
4 check
4 len: 3584
4 count: 1
4 bounds: 1
2 from_len: 0, from the first name
2 to_len: 6
4 zero
6 to: acme/u
2 padding
8 lsn: 1053424
2 length: 9
9 prefix: acme/old/
5 padding
3528 filler";

pub(super) const TRAILER_FIELDS: &str = "\
8 magic: memlogFT
4 version: 2
4 check
16 store
8 segment: 2
8 salt
8 first_lsn: 1052800
8 data_end: 856
8 generation: 0
8 lowest_lsn: 1052800
8 highest_lsn: 1053528
8 max_at: 1763884800005
8 file_len: 1048576
8 footer_at: 1036288
4 directory_pages: 1
4 leaf_pages: 1
4 root: 0
4 filter_pages: 1
8 filter_at: 1040384
8 blocks_at: 1044480
8 blocks_len: 344
8 prefixes_at: 1044824
8 prefixes_len: 3432
8 agents: 2
8 entries: 2
8 bytes: 9
8 record_bytes: 304
8 cleaned: 0
8 state_bytes: 40
8 hidden: 0
8 compatible: none
8 incompatible: none
8 weight: 3
8 soonest: 1763884801000
8 annexes_len: 0
2 flags: those of the first block
6 zero
8 oldest: 1763884800005
40 reserved";

pub(super) const MANIFEST_FIELDS: &str = "\
8 magic: memlogMF
4 version: 2
4 check
16 store
8 incarnation: 3
8 generation: 17
8 next_id: 5
8 durable: 1053528
8 time: 1763884800000
8 clean_end: 0
4 segments: 2
4 forgotten: 1
4 obsolete: 1
4 defaults: 0
8 compatible: none
8 incompatible: none
8 history
32 zero: no archive
4 annexes: 0
4 zero
8 claim: 0
56 reserved
8 id: 2
8 salt
8 base: 1052672
8 capacity: 1048576
8 data_end: 856
4 footer_check: that of the trailer above
1 role: sealed
1 layout: log
2 zero
8 dead: 48
8 dead_since: 1763884800000
8 id: 3
8 salt: 77
8 base: 2101248
8 capacity: 1048576
8 data_end: 0
4 footer_check: 0
1 role: active
1 layout: log
2 zero
8 dead: 0
8 dead_since: 0
8 lsn: 1053424
4 length: 9
9 prefix: acme/old/
3 padding
8 obsolete id: 1";
