-- Makes the shop's database in the private server of the demo. Runs once, outside a transaction.
create database shop
