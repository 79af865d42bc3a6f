-- Brings the settings of this session to what the code relies on, whatever the database, the role or a pooler says of
-- them. Run once, when a connection is made. $1 text[]: names. In the same order: $2 text[]: the values; $3 text[]: the
-- only value to be replaced, or null for any. $4 text[]: names that are only looked at, compared with the values in $5
-- text[]. Returns what differed: the name, the value that was found, and the value from now on. A setting that this
-- server does not know is left out, and one that this role may not change keeps its value. Running it again changes
-- nothing more.
with wanted as (
  select name, value, replaced, true as change from unnest($1::text[], $2::text[], $3::text[]) as w(name, value, replaced)
  union all
  select name, value, null, false from unnest($4::text[], $5::text[]) as l(name, value)
),
different as materialized (
  select s.name, s.setting as found, w.value,
    w.change and (s.context = 'user' or (s.context = 'superuser' and current_setting('is_superuser') = 'on')) as may
  from wanted w
  join pg_settings s on lower(s.name) = lower(w.name)
  where s.setting is distinct from w.value and (w.replaced is null or s.setting = w.replaced)
)
select name, found, case when may then set_config(name, value, false) else found end as now from different
