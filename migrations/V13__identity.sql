-- Two histories that began as one: a copy of the database must not take the batches of the original for its own.

-- Names the last batch that was claimed for exactly-once delivery: its number in the upper half, a random number in the lower one. The marker
-- in Kafka carries it, so two databases that were copied from each other never agree about a batch that either has claimed since.
-- A batch with another number, or none, was claimed by an older version or in at-least-once delivery.
alter table outbox_shards add column batch_tag uuid;

-- Where the outbox lives: the server by its system identifier (null where PostgreSQL does not tell it) and the database in it by its oid. Noted
-- by the first relay that runs. A standby that takes over has the same; a copy, a restored dump and an upgraded server do not.
alter table outbox_installation
  add column home_system text,
  add column home_database bigint;
