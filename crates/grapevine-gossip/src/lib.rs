//! Discovery and failure suspicion for Grapevine, on chitchat.
