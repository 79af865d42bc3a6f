-- refinery's table of what was applied, exactly as it makes it. No parameters; repeatable.
create table if not exists refinery_schema_history (
  version int4 primary key,
  name varchar(255),
  applied_on varchar(255),
  checksum varchar(255)
);
