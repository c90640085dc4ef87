package devicedb

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Who the caller is, and whom it believes: certificates and a token, read from files again when these change.
//
//   - Every connection that is made reads what the files hold then. Those that are open go on; a node asks for another one when one is half an hour old.
//   - A set that cannot be used, because it is being replaced file by file or is damaged, changes nothing: the one before it stays in use.
//   - Neither a key nor a token is ever told. It is not looked at who else may read the files.
const (
	credentialBytesMax = 1 << 20
	tokenBytesMax      = 4096
	bearerHeader       = "authorization"
)

// TLSFiles are files, in PEM, for connections over TLS. They are read again when they change.
type TLSFiles struct {
	// CA has issued for the nodes; several while a CA is changed.
	CA string
	// Cert says who the caller is. Empty where a token does.
	Cert string
	// Key of that certificate.
	Key string
	// ServerName is whom the nodes' certificates are for, where that is not the host of the endpoint.
	ServerName string
}

// Secret is a text that is not told when it is printed.
type Secret string

// String does not tell it.
func (s Secret) String() string { return "(secret)" }

// GoString does not tell it.
func (s Secret) GoString() string { return "(secret)" }

// MarshalText does not tell it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// checkCaller looks at what belongs together, and at the files.
func checkCaller(o Options, endpoints []string) (*tlsFromFiles, *bearer, error) {
	var secured *tlsFromFiles
	if o.TLS != nil {
		files := *o.TLS
		if files.CA == "" {
			return nil, nil, newError(ErrInvalidArgument, "TLS.CA is missing: name the CA that has issued for the nodes")
		}
		if (files.Cert == "") != (files.Key == "") {
			return nil, nil, newError(ErrInvalidArgument, "TLS.Cert and TLS.Key belong together: name both, or neither")
		}
		secured = &tlsFromFiles{files: files}
		if _, err := secured.config(); err != nil {
			return nil, nil, err
		}
	}
	if o.Token == "" && o.TokenFile == "" {
		return secured, nil, nil
	}
	if o.Token != "" && o.TokenFile != "" {
		return nil, nil, newError(ErrInvalidArgument, "Token and TokenFile are both given: one of them is the caller's")
	}
	if o.TLS != nil && o.TLS.Cert != "" {
		return nil, nil, newError(ErrInvalidArgument, "TLS.Cert and a token are two callers: leave one of them out")
	}
	for _, endpoint := range endpoints {
		if secured == nil && !isHere(endpoint) {
			return nil, nil, newError(ErrInvalidArgument, "a token is not sent without TLS, and %s is another machine: name Options.TLS", endpoint)
		}
	}
	b := &bearer{path: o.TokenFile}
	if o.TokenFile == "" {
		token, err := tokenOf("the token", string(o.Token))
		if err != nil {
			return nil, nil, err
		}
		b.token = token
	} else if _, err := b.current(); err != nil {
		return nil, nil, err
	}
	return secured, b, nil
}

// isHere: what is sent there stays on this machine.
func isHere(endpoint string) bool {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// stamp of a file changes with the file.
type stamp struct {
	dev, ino    uint64
	size, nanos int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	made := stamp{size: info.Size(), nanos: info.ModTime().UnixNano()}
	if system, ok := info.Sys().(*syscall.Stat_t); ok {
		made.dev, made.ino = uint64(system.Dev), system.Ino
	}
	return made
}

func readCredential(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, unusable(path, err)
	}
	defer func() { _ = file.Close() }()
	held, err := io.ReadAll(io.LimitReader(file, credentialBytesMax+1))
	if err != nil {
		return nil, unusable(path, err)
	}
	if len(held) > credentialBytesMax {
		return nil, unusable(path, fmt.Errorf("it holds more than %d bytes", credentialBytesMax))
	}
	return held, nil
}

func unusable(path string, why error) error {
	var system *os.PathError
	if errors.As(why, &system) {
		why = system.Err
	}
	return newError(ErrLocalFile, "%s: %v", path, why).because(why)
}

// tlsFromFiles makes each connection with what the files hold then.
type tlsFromFiles struct {
	files  TLSFiles
	mu     sync.Mutex
	stamps [3]stamp
	made   *tls.Config
}

// config is the newest set that can be used.
func (t *tlsFromFiles) config() (*tls.Config, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stamps := [3]stamp{stampOf(t.files.CA), stampOf(t.files.Cert), stampOf(t.files.Key)}
	if t.made != nil && stamps == t.stamps {
		return t.made, nil
	}
	made, err := t.files.load()
	if err != nil {
		if t.made != nil {
			return t.made, nil // The rest of the set may still be on its way.
		}
		return nil, err
	}
	t.made, t.stamps = made, stamps
	return made, nil
}

func (f TLSFiles) load() (*tls.Config, error) {
	ca, err := readCredential(f.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, newError(ErrLocalFile, "%s: no certificate stands there, in PEM", f.CA)
	}
	made := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if f.Cert == "" {
		return made, nil
	}
	cert, err := readCredential(f.Cert)
	if err != nil {
		return nil, err
	}
	key, err := readCredential(f.Key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	switch {
	case err == nil:
	case !bytes.Contains(cert, []byte("-----BEGIN CERTIFICATE-----")):
		return nil, newError(ErrLocalFile, "%s: no certificate stands there, in PEM", f.Cert)
	case !bytes.Contains(key, []byte("PRIVATE KEY-----")):
		return nil, newError(ErrLocalFile, "%s: no private key stands there, in PEM", f.Key)
	case strings.Contains(err.Error(), "does not match"):
		return nil, newError(ErrLocalFile, "%s: it is not the key of %s", f.Key, f.Cert)
	default:
		return nil, newError(ErrLocalFile, "%s and %s cannot be used: %v", f.Cert, f.Key, err)
	}
	// Whatever authorities the node names: it says itself whether it believes the certificate, and why not.
	made.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return made, nil
}

// ClientHandshake makes one connection.
func (t *tlsFromFiles) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := t.config()
	if err != nil {
		return nil, nil, err
	}
	if t.files.ServerName != "" {
		authority = t.files.ServerName // gRPC asks for the authority's name, whatever stands in the set.
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake is none of a client's business.
func (t *tlsFromFiles) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a client takes no connections")
}

// Info says what is spoken.
func (t *tlsFromFiles) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone is the same: it reads the same files.
func (t *tlsFromFiles) Clone() credentials.TransportCredentials { return t }

// OverrideServerName is for gRPC's own tests.
func (t *tlsFromFiles) OverrideServerName(string) error { return nil }

func (t *tlsFromFiles) transport() credentials.TransportCredentials {
	if t == nil {
		return insecure.NewCredentials()
	}
	return t
}

// bearer is a token, and the file that it stands in if there is one.
type bearer struct {
	path  string
	mu    sync.Mutex
	stamp stamp
	token string
}

// current is the newest token that can be used.
func (b *bearer) current() (string, error) {
	if b.path == "" {
		return b.token, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := stampOf(b.path)
	if b.token != "" && now == b.stamp {
		return b.token, nil
	}
	held, err := readCredential(b.path)
	var token string
	if err == nil {
		token, err = tokenOf(b.path, string(bytes.TrimSpace(held)))
	}
	if err != nil {
		if b.token != "" {
			return b.token, nil
		}
		return "", err
	}
	b.token, b.stamp = token, now
	return token, nil
}

func tokenOf(where, token string) (string, error) {
	if token == "" {
		return "", newError(ErrLocalFile, "%s: no token stands there", where)
	}
	if len(token) > tokenBytesMax || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", newError(ErrLocalFile, "%s: what stands there is no token: one line, as in ddb_...", where)
	}
	return token, nil
}

// named says with a call who makes it.
func (c *Client) named(ctx context.Context) context.Context {
	if c.bearer == nil {
		return ctx
	}
	token, err := c.bearer.current()
	if err != nil {
		return ctx // It was read when the client was opened, so there is one.
	}
	return metadata.AppendToOutgoingContext(ctx, bearerHeader, "Bearer "+token)
}

// distrust is why a handshake failed, in plain words; empty where none did.
func distrust(message string) string {
	_, why, failed := strings.Cut(message, "authentication handshake failed: ")
	if !failed {
		return ""
	}
	why = strings.TrimSuffix(why, `"`)
	switch {
	case strings.Contains(why, "first record does not look like a TLS handshake"):
		return "what listens there does not speak TLS; leave TLS out to speak without encryption"
	case strings.Contains(why, "certificate is valid for ") || strings.Contains(why, "cannot validate certificate for") ||
		strings.Contains(why, "certificate is not valid for any names"):
		_, told, _ := strings.Cut(why, "x509: ")
		return "the node is not believed: its certificate is for another name (" + told + "); name it as its certificate does, or say that name with TLS.ServerName"
	case strings.Contains(why, "x509: "):
		_, told, _ := strings.Cut(why, "x509: ")
		return "the node is not believed: " + told + ": it has to be of a CA in TLS.CA, and valid now"
	case strings.Contains(why, "EOF") || strings.Contains(why, "reset by peer") || strings.Contains(why, "deadline exceeded"):
		return "" // The connection broke, and nobody was distrusted.
	}
	return "no handshake: " + why
}
