-- What rows of the outbox can say of themselves. A role that may insert into every column could otherwise choose an id under which later
-- arithmetic overflows, or pass its event off as a dead letter of the relay's. Grants by column (docs/roles.sql) are what keeps it from that;
-- these hold where such grants are not made.
-- NOT VALID: the table is not read under the lock. A check that is not valid is asked of every row that is written, also of one that was there
-- before, so none may be there that breaks it: then the check is left out, and `outbox-relay check` says so.

alter table outbox_events
  add constraint outbox_events_id_range check (id between 1 and 4611686018427387904) not valid,
  add constraint outbox_events_dead_letter_of_id check (dead_letter_of > 0) not valid,
  add constraint outbox_events_dead_letter_to_failed check (dead_letter_to is null or status = 'FAILED') not valid;

do $$
begin
  -- By index, all of them.
  if (select min(id) < 1 or max(id) > 4611686018427387904 from outbox_events) then
    alter table outbox_events drop constraint outbox_events_id_range;
  end if;
  if exists (select 1 from outbox_events where dead_letter_of is not null and dead_letter_of <= 0) then
    alter table outbox_events drop constraint outbox_events_dead_letter_of_id;
  end if;
  if exists (select 1 from outbox_events where dead_letter_to is not null and status <> 'FAILED') then
    alter table outbox_events drop constraint outbox_events_dead_letter_to_failed;
  end if;
  if not exists (select 1 from outbox_events) then
    alter table outbox_events
      validate constraint outbox_events_id_range,
      validate constraint outbox_events_dead_letter_of_id,
      validate constraint outbox_events_dead_letter_to_failed;
  end if;
end
$$;
