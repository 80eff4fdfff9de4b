//! Whose tickets are kept, and whose connections are whose.
