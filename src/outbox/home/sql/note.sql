-- Notes where the outbox is, if nobody has. $1 text: the server, or null. $2 bigint: the database. Running it twice
-- changes nothing.
update outbox_installation set home_system = $1, home_database = $2 where home_database is null
