-- For a script that is run by hand: everything goes into the schema {schema}, a quoted name. To the end of the
-- transaction.
set local search_path = {schema};
