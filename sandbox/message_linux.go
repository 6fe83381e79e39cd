package sandbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxFiles is how many files one message can carry (the kernel's SCM_MAX_FD).
const maxFiles = 253

// channel is one end of a stream socket on which messages, values with open files
// beside them, go between the supervisor and its processes in pods. One goroutine
// at a time may send and one may receive.
type channel struct {
	conn *net.UnixConn
}

// newChannel makes a channel and a file that is its other end, for another process.
func newChannel() (*channel, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	other := os.NewFile(uintptr(fds[1]), "channel")
	// Messages then name their sender's process, in this process's numbers.
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		unix.Close(fds[0])
		other.Close()
		return nil, nil, fmt.Errorf("set up socket pair: %w", err)
	}
	c, err := openChannel(os.NewFile(uintptr(fds[0]), "channel"))
	if err != nil {
		other.Close()
		return nil, nil, err
	}
	return c, other, nil
}

// openChannel makes a channel of the other end, and closes the file.
func openChannel(file *os.File) (*channel, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	return &channel{conn.(*net.UnixConn)}, nil
}

func (c *channel) Close() error { return c.conn.Close() }

// header of a message: length of its text, number of files.
const headerSize = 8

// send sends a value and copies of files.
func (c *channel) send(value any, files ...*os.File) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if len(files) > maxFiles {
		return fmt.Errorf("%d files in one message, the kernel takes %d", len(files), maxFiles)
	}
	header := binary.NativeEndian.AppendUint32(nil, uint32(len(text)))
	header = binary.NativeEndian.AppendUint32(header, uint32(len(files)))
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.conn.WriteMsgUnix(header, rights, nil); err != nil {
		return err
	}
	_, err = c.conn.Write(text)
	return err
}

// receive reads a message into value. The files are the caller's. The number of the
// sending process is 0 where the channel was not made here. io.EOF: the other end is
// closed everywhere.
func (c *channel) receive(value any) (files []*os.File, sender int, err error) {
	header := make([]byte, headerSize)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles)+unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(header, oob)
	if err != nil {
		return nil, 0, err
	}
	if n == 0 {
		return nil, 0, io.EOF
	}
	files, sender, err = parseControl(oob[:oobn])
	if err == nil {
		_, err = io.ReadFull(c.conn, header[n:])
	}
	if err == nil {
		text := make([]byte, binary.NativeEndian.Uint32(header))
		if _, err = io.ReadFull(c.conn, text); err == nil {
			err = json.Unmarshal(text, value)
		}
	}
	if count := int(binary.NativeEndian.Uint32(header[4:])); err == nil && count != len(files) {
		err = fmt.Errorf("%d of %d files came (the limit of open files?)", len(files), count)
	}
	if err != nil {
		closeFiles(files)
		return nil, 0, fmt.Errorf("receive message: %w", err)
	}
	return files, sender, nil
}

func parseControl(oob []byte) (files []*os.File, sender int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, 0, err
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.SCM_RIGHTS:
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				return nil, 0, err
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "received"))
			}
		case unix.SCM_CREDENTIALS:
			cred, err := unix.ParseUnixCredentials(&m)
			if err != nil {
				return nil, 0, err
			}
			sender = int(cred.Pid)
		}
	}
	return files, sender, nil
}

func closeFiles(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
