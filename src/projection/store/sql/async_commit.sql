-- Session setting of the consumer. No parameters. A commit does not wait for the disk: offset and fold are one
-- transaction, so when a crash of PostgreSQL loses the last of them, it loses both, and Kafka still has the records.
set synchronous_commit = off
