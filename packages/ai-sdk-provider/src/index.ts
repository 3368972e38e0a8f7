export { type IntFlashSettings, intFlash } from './int-flash-language-model.js';
