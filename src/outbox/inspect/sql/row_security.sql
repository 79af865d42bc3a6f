-- Tables of the outbox whose row-level security applies to this role. Reads the catalogs alone, so it is answered where
-- every other statement is refused. Changes nothing. to_regclass: a table may be missing.
select t from unnest(array['outbox_events', 'outbox_shards', 'outbox_instances', 'outbox_held_keys', 'outbox_outcomes', 'outbox_again', 'outbox_pauses']) as t
where to_regclass(t) is not null and row_security_active(to_regclass(t)::oid)
order by t
