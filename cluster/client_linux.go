package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotUp is returned for a sandbox that nobody runs.
var ErrNotUp = errors.New("is not up")

// RemoteError is an error that the supervisor answered with.
type RemoteError struct {
	Message string
	// NotFound says that something that was asked for does not exist.
	NotFound bool
	// Code is the exit code of a program that could not be started, as a shell has it; 0 for other errors.
	Code int
}

func (e *RemoteError) Error() string { return e.Message }

// Client talks to a sandbox's supervisor. Each request has a connection of its own, so a Client may be used
// by several goroutines at once.
type Client struct {
	folder  folder
	version string
	// Warn is told once that client and supervisor are of different versions, if not nil.
	Warn func(string)
}

// NewClient returns a client for the sandbox of that name. Nothing is connected yet.
func NewClient(root, name, version string) (*Client, error) {
	f, err := folderOf(root, name)
	return &Client{folder: f, version: version}, err
}

// Name is the sandbox's.
func (c *Client) Name() string { return c.folder.name() }

// session is one request under way, at the client.
type session struct {
	*wire
	client *Client
	stop   func() bool
}

// Close hangs up, which ends the request if it is not over.
func (s *session) Close() error {
	s.stop()
	return s.wire.Close()
}

// begin sends a request. The session ends with ctx.
func (c *Client) begin(ctx context.Context, method string, params any, files ...*os.File) (*session, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	s := &session{wire: newWire(conn), client: c}
	s.stop = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	body, err := json.Marshal(params)
	if err == nil {
		err = s.send(request{Protocol: Protocol, Version: c.version, Method: method, Params: body}, files...)
	}
	// One who is refused may find the connection closed, but the reason is there to be read.
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		s.Close()
		return nil, c.explain(err)
	}
	return s, nil
}

func (c *Client) dial() (*net.UnixConn, error) {
	dir, err := os.Open(string(c.folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("sandbox %s %w", c.Name(), ErrNotUp)
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketFile), Net: "unix"})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		if alive, err := c.folder.alive(); err == nil && !alive {
			return nil, fmt.Errorf("sandbox %s %w: its supervisor has ended; 'down' removes what it left", c.Name(), ErrNotUp)
		}
	}
	if err != nil {
		return nil, c.explain(err)
	}
	return conn, nil
}

func (c *Client) explain(err error) error {
	return fmt.Errorf("sandbox %s: talk to its supervisor: %w", c.Name(), err)
}

// next takes the next reply. done tells that it is the last.
func (s *session) next(ctx context.Context, into any) (files []*os.File, done bool, err error) {
	var r reply
	files, err = s.receive(&r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, true, context.Cause(ctx)
		}
		return nil, true, s.client.explain(err)
	}
	if r.Version != "" && r.Version != s.client.version && s.client.Warn != nil {
		s.client.Warn(fmt.Sprintf("sandbox %s is run by svcproxy %s, this is %s", s.client.Name(), r.Version, s.client.version))
		s.client.Warn = nil
	}
	switch {
	case r.Error != "":
		err = &RemoteError{Message: r.Error, NotFound: r.NotFound, Code: r.Code}
	case into != nil && len(r.Result) > 0:
		err = json.Unmarshal(r.Result, into)
	}
	if err != nil {
		closeAll(files)
		return nil, true, err
	}
	return files, r.Done, nil
}

// ask sends a request that has one answer.
func (c *Client) ask(ctx context.Context, method string, params, into any, files ...*os.File) ([]*os.File, error) {
	s, err := c.begin(ctx, method, params, files...)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	got, _, err := s.next(ctx, into)
	return got, err
}

// Status asks what the sandbox is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	s := &Status{}
	_, err := c.ask(ctx, methodStatus, nil, s)
	return s, err
}

// shutdown asks the supervisor to end, and returns when it has begun to.
func (c *Client) shutdown(ctx context.Context) error {
	_, err := c.ask(ctx, methodShutdown, nil, nil)
	return err
}
