-- The table of what was applied, with a name of our own: refinery's default is one that applications use, too. No
-- parameters; repeatable.
create table if not exists outbox_schema_history (
  version int4 primary key,
  name varchar(255),
  applied_on varchar(255),
  checksum varchar(255)
);
