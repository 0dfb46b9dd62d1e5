"""Working in roots and in the store by descriptors: nothing outside of them is ever touched."""
