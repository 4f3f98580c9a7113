DROP TRIGGER orders_spent ON orders;
DROP FUNCTION add_to_spent();
ALTER TABLE customers DROP COLUMN spent;
