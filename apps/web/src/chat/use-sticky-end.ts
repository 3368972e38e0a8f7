import type { RefObject } from 'preact';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';

const NEAR_PX = 96; // closer to the end than this counts as reading along

/** Keeps the end of the page in view while `content` grows, until the reader scrolls up. @returns for the last element */
export function useStickyEnd(content: readonly unknown[]): RefObject<HTMLDivElement | null> {
  const end = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const count = useRef(0);

  useEffect(() => {
    const onScroll = () => {
      const { scrollHeight, scrollTop, clientHeight } = document.documentElement;
      follows.current = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    };
    addEventListener('scroll', onScroll, { passive: true });
    return () => removeEventListener('scroll', onScroll);
  }, []);

  useLayoutEffect(() => {
    if (content.length !== count.current) follows.current = true; // the reader has just asked something
    count.current = content.length;
    if (follows.current && content.length > 0) end.current?.scrollIntoView({ block: 'end' });
  }, [content]);

  return end;
}
