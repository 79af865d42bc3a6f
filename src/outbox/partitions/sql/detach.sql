-- Takes a partition, {name}, off without making anybody wait. Waits for transactions that have the outbox open; when it
-- is interrupted there, finalize.sql goes on.
alter table outbox_events detach partition {name} concurrently;
