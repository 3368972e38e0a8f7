import { render } from 'preact';
import { ServerClient } from './server/server-client';
import { App } from './shell/app';
import './style/base.css';
import './style/shell.css';
import './style/chat.css';
import './style/markdown.css';
import './style/lab.css';

render(<App client={new ServerClient()} />, document.getElementById('page')!);
