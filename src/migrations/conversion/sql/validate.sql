-- Reads the whole table once for each check of ours that is not valid yet, while everybody goes on working with it.
-- Repeatable.
do $$
declare
  name text;
begin
  for name in
    select conname from pg_constraint
    where conrelid = 'outbox_events'::regclass and not convalidated and conname in (
      'outbox_events_bound', 'outbox_events_id_range', 'outbox_events_dead_letter_of_id', 'outbox_events_dead_letter_to_failed')
  loop
    execute format('alter table outbox_events validate constraint %I', name);
  end loop;
end
$$
