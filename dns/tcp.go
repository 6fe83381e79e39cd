package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// maxConns is how many TCP connections a socket serves at once, and maxConnsEach how many of one client: more
	// are closed, so that slow clients leave room for others.
	maxConns     = 1000
	maxConnsEach = 100
	// maxPipelined is how many queries of a connection are answered at once (RFC 7766, 6.2.1.1); the next is read when one is done.
	maxPipelined = 16
	// idleTimeout is how long a connection may be without a query, messageTimeout how long one may take to come in,
	// and an answer to be taken.
	idleTimeout    = 10 * time.Second
	messageTimeout = 5 * time.Second
)

// tcpServer serves one TCP socket.
type tcpServer struct {
	server    *Server
	listener  net.Listener
	answering context.Context // ends when answers are not waited for any longer
	idle      time.Duration
	message   time.Duration

	mu    sync.Mutex
	conns map[net.Conn]string // with the client's address
	from  map[string]int
}

func newTCPServer(s *Server, l net.Listener, answering context.Context) *tcpServer {
	return &tcpServer{server: s, listener: l, answering: answering, idle: idleTimeout, message: messageTimeout,
		conns: map[net.Conn]string{}, from: map[string]int{}}
}

func (t *tcpServer) serve(ctx context.Context) error {
	defer t.listener.Close()
	stop := context.AfterFunc(ctx, func() {
		_ = t.listener.Close()
		t.mu.Lock()
		defer t.mu.Unlock()
		for c := range t.conns {
			_ = c.SetReadDeadline(past)
		}
	})
	defer stop()
	var wg sync.WaitGroup
	for {
		c, err := t.listener.Accept()
		if ctx.Err() != nil {
			if c != nil {
				_ = c.Close()
			}
			return wait(&wg)
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			t.server.log().Warn("DNS connection not accepted", zap.Error(err)) // too many open files, say
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if !t.enter(c) {
			t.server.Metrics.drop("too many")
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer t.leave(c)
			t.converse(ctx, c)
		})
	}
}

// enter takes a connection in, if there is room.
func (t *tcpServer) enter(c net.Conn) bool {
	client, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		client = c.RemoteAddr().String()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.conns) >= maxConns || t.from[client] >= maxConnsEach {
		return false
	}
	t.conns[c] = client
	t.from[client]++
	return true
}

func (t *tcpServer) leave(c net.Conn) {
	_ = c.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	client := t.conns[c]
	delete(t.conns, c)
	if t.from[client]--; t.from[client] == 0 {
		delete(t.from, client)
	}
}

// converse answers the queries of one connection, several at once and in the order in which answers are found,
// until the client closes it, or is too slow, or ctx ends.
func (t *tcpServer) converse(ctx context.Context, c net.Conn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxPipelined)
	var writing sync.Mutex
	for {
		slots <- struct{}{}
		packet, err := t.read(ctx, c)
		if err != nil {
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			reply := t.server.handle(t.answering, packet, false)
			if reply == nil {
				return
			}
			writing.Lock()
			defer writing.Unlock()
			_ = c.SetWriteDeadline(time.Now().Add(t.message))
			if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
				t.server.log().Debug("DNS reply not sent", zap.Stringer("client", c.RemoteAddr()), zap.Error(err))
				_ = c.Close()
			}
		})
	}
}

// read reads one message. A client may be idle before it, but not slow within.
func (t *tcpServer) read(ctx context.Context, c net.Conn) ([]byte, error) {
	var length [2]byte
	if err := t.deadline(ctx, c, t.idle); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, length[:1]); err != nil {
		return nil, err
	}
	if err := t.deadline(ctx, c, t.message); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(c, length[1:]); err != nil {
		return nil, err
	}
	packet := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, packet)
	return packet, err
}

// deadline sets the deadline of the next reads, but not over that of the server's end.
func (t *tcpServer) deadline(ctx context.Context, c net.Conn, d time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}
