package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
)

const (
	// maxConnections is how many requests may be under way; each has a connection.
	maxConnections = 256
	// requestTimeout is how long a client may take to send its request.
	requestTimeout = 10 * time.Second
)

// errNotFound is wrapped by errors about something that was asked for and does not exist.
var errNotFound = errors.New("not found")

// handler answers one request. Its result is the last reply.
type handler func(ctx context.Context, c *call) (any, error)

// call is a request under way.
type call struct {
	params json.RawMessage
	files  []*os.File
	// orders are what the client says meanwhile; it is closed when the client hangs up.
	orders <-chan order
	wire   *wire
}

// read reads the request's parameters.
func (c *call) read(into any) error {
	if err := json.Unmarshal(c.params, into); err != nil {
		return fmt.Errorf("parameters of the request: %w", err)
	}
	return nil
}

// send sends a part of the result, and open files.
func (c *call) send(part any, files ...*os.File) error {
	body, err := json.Marshal(part)
	if err != nil {
		return err
	}
	return c.wire.send(reply{Result: body}, files...)
}

// server answers requests on a unix socket.
type server struct {
	version  string
	handlers map[string]handler
	log      *zap.Logger
}

// listen makes the socket in the sandbox's folder. The path to it is not limited to the 107 bytes of a unix
// socket's address.
func (f folder) listen() (*net.UnixListener, error) {
	dir, err := os.Open(string(f))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := os.Remove(f.file(socketFile)); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketFile), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(f.file(socketFile), 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// serve answers requests until ctx ends, and returns when all are over.
func (s *server) serve(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	slots := make(chan struct{}, maxConnections)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			s.log.Warn("a client was not let in", zap.Error(err))
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			pause(ctx, 100*time.Millisecond) // out of files or memory: it passes
			continue
		}
		select {
		case slots <- struct{}{}:
			running.Go(func() {
				defer func() { <-slots }()
				s.answer(ctx, newWire(conn))
			})
		default:
			w := newWire(conn)
			_ = w.send(reply{Version: s.version, Error: fmt.Sprintf("%d requests are under way already", maxConnections)})
			w.Close()
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// answer handles one connection.
func (s *server) answer(ctx context.Context, w *wire) {
	defer w.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result, err := s.handle(ctx, cancel, w)
	last := reply{Version: s.version, Done: true}
	if err == nil {
		last.Result, err = json.Marshal(result)
	}
	if err != nil {
		last = reply{Version: s.version, Error: err.Error(), NotFound: errors.Is(err, errNotFound)}
		if refused := (*sandbox.StartError)(nil); errors.As(err, &refused) {
			last.Code = refused.Code
		}
		if killed := (*killedError)(nil); errors.As(err, &killed) {
			last.Code = 128 + int(unix.SIGKILL)
		}
	}
	if err := w.send(last); err != nil {
		s.log.Debug("a client did not wait for its answer", zap.Error(err))
	}
}

func (s *server) handle(ctx context.Context, hangUp func(), w *wire) (result any, err error) {
	if err := checkPeer(w.conn); err != nil {
		return nil, err
	}
	if err := w.conn.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, err
	}
	var r request
	files, err := w.receive(&r)
	if err != nil {
		return nil, fmt.Errorf("no request: %w", err)
	}
	defer func() { closeAll(files) }()
	if r.Protocol != Protocol {
		return nil, fmt.Errorf("the sandbox is run by svcproxy %s, whose protocol %d is not %d, that of this svcproxy %s: "+
			"use the same program, or take the sandbox down and up again", s.version, Protocol, r.Protocol, r.Version)
	}
	h := s.handlers[r.Method]
	if h == nil {
		return nil, fmt.Errorf("svcproxy %s, which runs the sandbox, knows no request %q", s.version, r.Method)
	}
	if err := w.conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a request failed in an unforeseen way", zap.String("method", r.Method), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("request %s: unforeseen: %v", r.Method, p)
		}
	}()
	return h(ctx, &call{params: r.Params, files: files, orders: listen(ctx, hangUp, w), wire: w})
}

// listen takes the client's orders until it hangs up, which is told by hangUp. It may not take files.
func listen(ctx context.Context, hangUp func(), w *wire) <-chan order {
	orders := make(chan order)
	go func() {
		defer hangUp()
		defer close(orders)
		for {
			var o order
			files, err := w.receive(&o)
			closeAll(files)
			if err != nil {
				return
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				return
			}
		}
	}()
	return orders
}

// checkPeer lets this user and root in. The socket's mode and folder do so already; but a mode can be changed by
// mistake. In a user namespace root outside is nobody, and can't be told from others.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if err := errors.Join(raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}), err); err != nil {
		return fmt.Errorf("who is the client: %w", err)
	}
	if int(peer.Uid) != os.Geteuid() && peer.Uid != 0 {
		return fmt.Errorf("user %d may not use a sandbox of user %d", peer.Uid, os.Geteuid())
	}
	return nil
}
