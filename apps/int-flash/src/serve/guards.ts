import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { isIP } from 'node:net';
import { ApiError, invalid } from './api-error.js';
import type { ServeSettings } from './serve-settings.js';

/** Nothing from elsewhere, nothing inline, in nobody's frame. */
export const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
};

const LOOPBACK_NAMES = ['localhost', '127.0.0.1', '::1'];
const WILDCARDS = ['0.0.0.0', '::'];

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

/**
 * Whether a request is addressed to this server: a web page can make a name of its own point here (DNS rebinding), but cannot
 * make the browser send another name than that. An address is no name, so a server on all addresses takes any.
 */
export function hostGuard({ host, allowedHosts }: ServeSettings): (header: string | undefined) => boolean {
  const names = new Set([...LOOPBACK_NAMES, host, ...allowedHosts].map((name) => name.toLowerCase()));
  const takesAddresses = WILDCARDS.includes(host);
  return (header) => {
    const name = hostName(header);
    return name !== undefined && (names.has(name) || (takesAddresses && isIP(name) !== 0));
  };
}

/** @throws {ApiError} 403 when a browser sends this from another site's page. */
export function expectSameOrigin({ origin, host, 'sec-fetch-site': site }: IncomingHttpHeaders): void {
  const isForeign = origin !== undefined && !(URL.canParse(origin) && new URL(origin).host === host?.toLowerCase());
  if (isForeign || site === 'cross-site') {
    throw invalid('Requests from pages of other sites are not answered.', undefined, 'cross_origin', 403);
  }
}

/**
 * Checks `authorization`: a bearer token, or the password of basic authentication, which a browser can ask its user for.
 *
 * @throws {ApiError} 401
 */
export function keyGuard(apiKey: string | undefined): (authorization: string | undefined, isPage: boolean) => void {
  if (apiKey === undefined) return () => {};
  const expected = digest(apiKey);
  return (authorization, isPage) => {
    const given = credential(authorization);
    if (given !== undefined && timingSafeEqual(digest(given), expected)) return;
    const scheme = isPage ? 'Basic realm="int-flash", charset="UTF-8"' : 'Bearer';
    throw new ApiError(401, 'authentication_error', 'Expected the API key of this server.', {
      code: 'invalid_api_key',
      headers: { 'www-authenticate': scheme },
    });
  };
}

function credential(authorization: string | undefined): string | undefined {
  const [, scheme, rest] = /^(Bearer|Basic) +(\S+)$/i.exec(authorization ?? '') ?? [];
  if (scheme === undefined || rest === undefined) return undefined;
  if (scheme.toLowerCase() === 'bearer') return rest;
  const pair = Buffer.from(rest, 'base64').toString('utf8');
  return pair.slice(pair.indexOf(':') + 1);
}

/** Of equal length whatever the key's is, as the comparison wants it. */
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

function hostName(header: string | undefined): string | undefined {
  const [, bracketed, plain] = /^(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d{1,5})?$/i.exec(header ?? '') ?? [];
  return (bracketed ?? plain)?.toLowerCase();
}
