/** The text with all pictures drawn anew; `mask` is the module phasor/mask. */
export function updatePictures(text: string, mask: object): string;
