-- Dead letters of events whose row refuses to be changed; decisions that outlive the row; texts that are no UTF-8.

-- Such an event is FAILED by its outcome alone: its dead letter is still to be written, to this topic; and the topic that it was for.
alter table outbox_outcomes
  add column dead_letter_to text,
  add column dead_letter_from text;

-- What was decided about events whose dead letter lies in Kafka. Their rows may be deleted long before it is, and nobody could tell then that an
-- event was published, or given up, after it had failed. A decision counts for the dead letters that are older than it.
create table outbox_decisions (
  id bigint not null,
  event_id uuid not null,
  decision text not null,
  at timestamptz not null default now(),
  primary key (id, event_id),
  constraint outbox_decisions_decision check (decision in ('retry', 'discard'))
);

-- As before, and an event with an outcome is not taken for a published one: it waits for somebody to decide.
create or replace function outbox_event_moved() returns trigger
  language plpgsql security definer
as $$
declare
  -- In flight it is the business of the shard that has it there.
  in_flight constant boolean := exists (
    select 1 from outbox_shards s where s.shard = old.shard and new.id = any(s.batch_ids));
  has_outcome constant boolean := exists (select 1 from outbox_outcomes o where o.id = new.id and o.event_id = new.event_id);
  published constant boolean := old.status = 'PENDING'
    and not exists (select 1 from outbox_again a where a.id = new.id)
    and exists (select 1 from outbox_shards s where s.shard = old.shard and (new.id <= s.done_id or new.id = any(s.ahead_ids)));
begin
  if in_flight or has_outcome then
    return null;
  elsif published then
    update outbox_events set status = 'PUBLISHED', published_at = now() where id = new.id;
  else
    insert into outbox_again (id, shard) values (new.id, new.shard) on conflict (id) do update set shard = excluded.shard;
  end if;
  return null;
end $$;
do $$ begin execute format('alter function outbox_event_moved() set search_path = %I, pg_temp', current_schema()); end $$;

-- Computes the shard of some events again that `shards set` could not move: it follows when a column is named that it is made from. With the rights of
-- its owner: who retries an event need not be allowed to change its key. Rows that are where they belong are left alone.
create function outbox_rehome(ids bigint[]) returns void
  language sql security definer
as $$
  update outbox_events set partition_key = partition_key
  where id = any(ids) and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
$$;
do $$ begin execute format('alter function outbox_rehome(bigint[]) set search_path = %I, pg_temp', current_schema()); end $$;

-- A text of a database in SQL_ASCII, which holds any bytes: what is no UTF-8 is shown with its other bytes as \nnn, because a session in UTF-8
-- could not receive it.
create function outbox_escaped(value text) returns text
  language sql stable parallel safe
  return case
    -- The bytes of UTF-8, by their hexadecimal digits.
    when encode(convert_to(value, 'SQL_ASCII'), 'hex') ~ ('^([0-7].|(c[2-9a-f]|d.)[89ab].|e0[ab].[89ab].|ed[89].[89ab].|e[1-9abcef]([89ab].){2}'
      || '|f0[9ab].([89ab].){2}|f[1-3]([89ab].){3}|f48.([89ab].){2})*$') then value
    else encode(convert_to(value, 'SQL_ASCII'), 'escape')
  end;

-- A text that can be sent. In another encoding it is the text itself. PostgreSQL inlines this function.
create function outbox_text(value text) returns text
  language sql stable parallel safe
  return case when getdatabaseencoding() = 'SQL_ASCII' then outbox_escaped(value) else value end;

create or replace function outbox_shown(value text) returns text
  language sql stable parallel safe
  return outbox_text(case when octet_length(value) > 4000 then left(value, 1000) || '...' else value end);
