//! What can go wrong with the store, each with what to do about it.
/// A store that cannot be opened, or a step that could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store has failed before")]
    Stopped,
}
