-- Whether the current role has each privilege. $1 text[]: relations, $2 text[]: a privilege for each, as in GRANT.
-- `granted` is null where the relation does not exist. A grant on some columns counts, since the relay's own role has
-- UPDATE on the columns it writes. Changes nothing.
select wanted.relation, wanted.privilege,
  case
    when to_regclass(wanted.relation) is null then null
    when wanted.privilege = 'delete' then has_table_privilege(to_regclass(wanted.relation), 'delete')
    else has_any_column_privilege(to_regclass(wanted.relation), wanted.privilege)
  end as granted
from unnest($1::text[], $2::text[]) as wanted (relation, privilege)
