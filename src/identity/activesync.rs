//! The `ActiveSync` query: `User=` of the plain form, tag 8 of the base64 form ([MS-ASHTTP] 2.2.1.1.1.1).
