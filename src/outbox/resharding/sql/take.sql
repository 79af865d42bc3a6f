-- Takes the shards that nobody owns and that have no batch in flight: the lease ends in another age, and the owner is
-- nobody, so that no instance of any version works on them, and one that wakes up finds another epoch. Repeatable. $1
-- uuid: the nil uuid, which no instance has.
update outbox_shards
set owner = $1, epoch = epoch + 1, lease_until = timestamptz '9999-12-31 00:00:00Z'
where (owner is null or lease_until < clock_timestamp()) and batch_ids is null
