//! The least HTTP client: one GET, the whole answer.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nobody answers: longer than the scheduler stops a process.
const PATIENCE: Duration = Duration::from_secs(30);

/// Status and body. `Err` when nobody answers within [`PATIENCE`].
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| format!("{path}: no answer within {PATIENCE:?}"))?
        .map_err(|error| format!("{path}: {error}"))?;
    let answer = String::from_utf8(answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("{path}: no end of the head: {answer}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("{path}: no status: {head}"))?;
    Ok((status, body.to_owned()))
}

/// The sum over all label sets of one sample in an OpenMetrics text. `None` when there is none of that name.
pub fn sample(metrics: &str, name: &str) -> Option<f64> {
    let values = metrics.lines().filter_map(|line| {
        let (sample, value) = line.rsplit_once(' ')?;
        let (sample_name, _) = sample.split_once('{').unwrap_or((sample, ""));
        if sample_name == name { value.parse::<f64>().ok() } else { None }
    });
    values.reduce(|sum, value| sum + value)
}

#[test]
fn a_sample_is_the_sum_over_its_labels_and_no_other_name() {
    let text = "# TYPE a counter\na_total{topic=\"x\"} 2\na_total{topic=\"y z\"} 3\na_total_more 9\nb 1.5\n# EOF\n";
    assert_eq!(sample(text, "a_total"), Some(5.0));
    assert_eq!(sample(text, "b"), Some(1.5));
    assert_eq!(sample(text, "c"), None);
}
