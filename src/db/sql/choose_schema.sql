-- Decides which schema the tables of ours are in, and puts it first in the search_path of this session for good. $1
-- text: the schema; null: the first one in the path of the connection that holds an outbox, or else the first one there
-- is. The rest of the path follows, because triggers of the application and the SQL of projections run in our sessions.
-- It follows only where every relation of ours is found in the schema: a name that is missing there must be an error,
-- and never somebody else's table. Returns the schema, null where the path names none that exists. pg_catalog is always
-- looked at first, since we do not name it.
with path as (
  select p.name::text as name, p.place from unnest(current_schemas(false)) with ordinality p (name, place)
  where p.name::text not like 'pg\_%'
),
chosen as (
  select coalesce(
    $1::text,
    (select p.name from path p
      where (
        select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = p.name and c.relname in ('outbox_events', 'outbox_shards')) = 2
      order by p.place limit 1),
    current_schema()::text) as schema
),
facts as (
  select schema, not exists (
      select 1 from unnest(array[
        'consumer_parked', 'consumer_partitions', 'event_handled', 'outbox_again', 'outbox_audit', 'outbox_claimable', 'outbox_current',
        'outbox_decisions',
        'outbox_events', 'outbox_held_keys', 'outbox_installation', 'outbox_instances', 'outbox_jobs', 'outbox_outcomes', 'outbox_pauses', 'outbox_progress',
        'outbox_redriven', 'outbox_replays', 'outbox_retired_shards', 'outbox_schema_history', 'outbox_shards', 'product_metrics'
      ]) ours (name)
      where not exists (
        select 1 from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = schema and c.relname = ours.name)
    ) as complete
  from chosen
)
select schema, set_config('search_path', concat_ws(', ', quote_ident(schema), (
    select string_agg(quote_ident(p.name), ', ' order by p.place) from path p where complete and p.name <> schema
  )), false) as search_path
from facts where schema is not null
