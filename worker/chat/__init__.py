"""The warm child that answers chats: models kept in memory, answers told while they are drawn."""
