-- An instance states the protocol it follows. Version 0.1 states none and does not know what later migrations have added: its heartbeat fails
-- by the check below, so it takes no more shards and says why in its log. It keeps the shards it owns until it is stopped.
lock table outbox_instances in access exclusive mode;
-- 0.1 drops its session, and the advisory lock with it, when a heartbeat fails. The missing lock must not be taken for its death.
update outbox_instances set session_lock = false;
alter table outbox_instances
  add column protocol int not null default 1,
  add constraint this_outbox_relay_is_older_than_the_schema check (protocol >= 2) not valid;
