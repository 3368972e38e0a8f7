const PROTOCOLS = ['http:', 'https:', 'mailto:'];

/** The link's URL if following it can only open a page or write a mail; undefined for everything else, as `javascript:` or `data:`. */
export function safeLink(href: string): URL | undefined {
  if (!/^(https?:\/\/|mailto:)/i.test(href)) return undefined; // relative links would point into this server
  const url = URL.canParse(href) ? new URL(href) : undefined;
  return url && PROTOCOLS.includes(url.protocol) ? url : undefined;
}
