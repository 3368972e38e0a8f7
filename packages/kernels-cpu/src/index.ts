export { createPortableBackend } from './portable-backend.js';
