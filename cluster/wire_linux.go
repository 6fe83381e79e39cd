package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxMessage bounds one message: etcd takes objects of 1.5 MiB, and manifests hold many.
	maxMessage = 32 << 20
	// maxFiles bounds the files that come with a connection and were not asked for yet.
	maxFiles = 8
	// sendTimeout is how long the other side may take to make room for a message.
	sendTimeout = 10 * time.Second
)

// envelope is one line on the wire.
type envelope struct {
	// Files is how many open files come with the message.
	Files   int             `json:"files,omitempty"`
	Message json.RawMessage `json:"message"`
}

// wire carries messages, one JSON line each, and open files with them (SCM_RIGHTS). Sending and receiving may
// go on at once, each from one goroutine.
type wire struct {
	conn *net.UnixConn
	buf  []byte // received, not yet taken
	// seen is how much of buf holds no end of line.
	seen  int
	files []*os.File
}

func newWire(conn *net.UnixConn) *wire { return &wire{conn: conn} }

// Close also closes files that nobody took.
func (w *wire) Close() error {
	err := w.conn.Close()
	closeAll(w.files)
	w.files = nil
	return err
}

// send sends a message with files, which stay the caller's.
func (w *wire) send(message any, files ...*os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	line, err := json.Marshal(envelope{Files: len(files), Message: body})
	if err != nil {
		return err
	}
	if len(line) >= maxMessage {
		return fmt.Errorf("a message of %d bytes: at most %d can be sent", len(line), maxMessage)
	}
	line = append(line, '\n')
	if err := w.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if len(files) > 0 {
		var fds []int
		for _, f := range files {
			fds = append(fds, int(f.Fd()))
		}
		// The files come with the first byte, whatever the rest is cut into.
		n, _, err := w.conn.WriteMsgUnix(line[:1], unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		line = line[n:]
	}
	_, err = w.conn.Write(line)
	return err
}

// receive takes the next message and its files, which are the caller's then.
func (w *wire) receive(into any) ([]*os.File, error) {
	for {
		end := bytes.IndexByte(w.buf[w.seen:], '\n')
		if end >= 0 {
			line := w.buf[:w.seen+end]
			w.buf, w.seen = w.buf[w.seen+end+1:], 0
			return w.open(line, into)
		}
		w.seen = len(w.buf)
		if len(w.buf) > maxMessage {
			return nil, fmt.Errorf("a message of more than %d bytes", maxMessage)
		}
		if err := w.read(); err != nil {
			return nil, err
		}
	}
}

func (w *wire) open(line []byte, into any) ([]*os.File, error) {
	var e envelope
	if err := json.Unmarshal(line, &e); err != nil {
		return nil, fmt.Errorf("a message that is no JSON: %w", err)
	}
	if e.Files < 0 || e.Files > len(w.files) {
		return nil, fmt.Errorf("a message with %d files, of which %d came", e.Files, len(w.files))
	}
	if err := json.Unmarshal(e.Message, into); err != nil {
		return nil, fmt.Errorf("a message of another kind than expected: %w", err)
	}
	files := w.files[:e.Files:e.Files]
	w.files = w.files[e.Files:]
	return files, nil
}

func (w *wire) read() error {
	chunk := make([]byte, 64<<10)
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := w.conn.ReadMsgUnix(chunk, oob)
	if err != nil {
		return err
	}
	files, rightsErr := parseRights(oob[:oobn])
	w.files = append(w.files, files...)
	w.buf = append(w.buf, chunk[:n]...)
	switch {
	case rightsErr != nil:
		return rightsErr
	case n == 0:
		return io.EOF
	case flags&unix.MSG_CTRUNC != 0 || len(w.files) > maxFiles:
		return fmt.Errorf("more than %d files at once", maxFiles)
	}
	return nil
}

func parseRights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var files []*os.File
	var errs []error
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		errs = append(errs, err)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, errors.Join(errs...)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
