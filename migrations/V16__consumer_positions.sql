-- What a position of the consumer rests on, why a partition is stopped, and what was decided about parked events.

-- All columns may be null, so that nothing is rewritten. A row of an older version has none of them until its next fold.
alter table consumer_partitions
  -- Null: every projection of the group reads from here.
  add column projection text,
  -- next_offset as the consumer or a command wrote it last. Where the two differ, somebody has changed next_offset by hand.
  add column written_offset bigint,
  -- The log that the position is a place in.
  add column cluster_id text,
  add column topic_id uuid,
  -- The last record that was folded. It is read back before reading goes on, and has to be the same.
  add column last_offset bigint,
  add column last_recorded_at timestamptz,
  add column last_digest uuid,
  -- Why the partition is not read although nothing is broken: somebody has to decide.
  add column stopped_reason text,
  add column stopped_detail text,
  add column stopped_at timestamptz,
  add constraint consumer_partitions_stopped
    check ((stopped_reason is null) = (stopped_at is null) and (stopped_reason is null) = (stopped_detail is null)) not valid;

alter table consumer_parked
  -- Null: no projection of the group has folded it.
  add column projection text,
  add column attempts int not null default 1,
  -- The running consumer folds it again.
  add column release_asked_at timestamptz,
  -- Given up by hand. The row stays as the record of that.
  add column discarded_at timestamptz,
  add constraint consumer_parked_one_decision check (release_asked_at is null or discarded_at is null) not valid;

-- Normally empty: what the consumer looks for every few seconds.
create index consumer_parked_release on consumer_parked (consumer_group, topic, partition, "offset") where release_asked_at is not null;
