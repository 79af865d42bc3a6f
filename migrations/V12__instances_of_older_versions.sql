-- An instance says which protocol of the tables it speaks. Version 0.1 says nothing, and does not know what later migrations have added: its
-- heartbeat fails by this check, so that it takes no more shards and says why in its log. What it owns it keeps until it is stopped.
alter table outbox_instances
  add column protocol int not null default 1,
  add constraint this_outbox_relay_is_older_than_the_schema check (protocol >= 2) not valid;
